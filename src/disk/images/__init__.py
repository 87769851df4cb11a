"""Reading and listing images, resizing to a network size and mapping points back."""
