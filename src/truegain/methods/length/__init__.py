"""Length components: budgets, penalties, early exit."""

from truegain.methods.length._drop_truncated import drop_truncated as drop_truncated
from truegain.methods.length._overlong_penalty import overlong_penalty as overlong_penalty
from truegain.methods.length._selective_merge import selective_merge as selective_merge
from truegain.methods.length._within_budget import within_budget as within_budget
from truegain.methods.length._within_limit import within_limit as within_limit
