"""One file per form: how `truegain.train.chain` runs it. Each is a generator of events that leaves its folder whole."""
