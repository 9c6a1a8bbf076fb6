"""Length components: budgets, penalties, early exit."""
