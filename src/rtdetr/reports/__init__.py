"""What a training run leaves to look at: its folder, pages, curves, previews, measurements and its display."""
