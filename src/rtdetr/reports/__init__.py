"""Reports of a training run: run folder, pages, curves, previews, metrics and terminal display."""
