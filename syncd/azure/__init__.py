"""What every adapter of an Azure service shares: clouds, workspace addresses, sign-in, Azure Resource Manager."""
