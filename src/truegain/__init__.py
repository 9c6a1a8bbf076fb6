"""truegain: RL post-training for language-model reasoners and agents, whose gains are real.

Importing this package is light: nothing heavier than the standard library is loaded until a room is imported.
"""

__version__ = "0.1.0"
