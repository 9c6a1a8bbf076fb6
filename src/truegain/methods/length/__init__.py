"""Length components: budgets, penalties, early exit."""

from truegain.methods.length._answer_places import answer_end as answer_end
from truegain.methods.length._answers_by_probe import answers_by_probe as answers_by_probe
from truegain.methods.length._by_reflection import by_reflection as by_reflection
from truegain.methods.length._drop_truncated import drop_truncated as drop_truncated
from truegain.methods.length._overlong_penalty import overlong_penalty as overlong_penalty
from truegain.methods.length._selective_merge import selective_merge as selective_merge
from truegain.methods.length._within_budget import within_budget as within_budget
from truegain.methods.length._stated_answers import stated_answers as stated_answers
from truegain.methods.length._within_limit import within_limit as within_limit
