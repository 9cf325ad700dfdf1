"""Raw files become clean interactions and items, with a reason for each refused row."""
