"""What every request passes before its route; stack.py has the order."""
