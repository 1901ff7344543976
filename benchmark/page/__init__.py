"""The page of results: its content (page, panels), its plots (plot, axes), and its templates, style and script."""
