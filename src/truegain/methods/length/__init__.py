"""Length components: budgets, penalties, early exit."""

from truegain.methods.length._drop_truncated import drop_truncated as drop_truncated
from truegain.methods.length._overlong_penalty import overlong_penalty as overlong_penalty
