"""Search components: trees and rejection over a policy's completions."""

from truegain.methods.search._keep_sound import keep_sound as keep_sound
from truegain.methods.search._sibling_steps import sibling_steps as sibling_steps
