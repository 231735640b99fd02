"""Report: result tables as Markdown, figures and one page."""
