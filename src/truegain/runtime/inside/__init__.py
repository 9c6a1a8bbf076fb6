"""What runs inside the sandbox. Standard library only; this folder is all of truegain that is let in."""
