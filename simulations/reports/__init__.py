"""A finished run, or several beside one another, for their reader: JSON, HTML, Markdown, pictures."""
