"""Generated text within a page that people write: between two marks, which stay."""

from benchmark.errors import ConfigError


def marks(name: str, command: str) -> tuple[str, str]:
    """Return the lines before and after what a command writes."""
    return f"<!-- {name}: written by {command} -->", f"<!-- end of {name} -->"


def inserted(page: str, name: str, command: str, text: str) -> str:
    """Return the page with the text between its marks. Raises ConfigError for a page without them."""
    begin, end = marks(name, command)
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ConfigError(f"The page has no place for the {name}: expected the lines {begin} and {end}.")
    return f"{before}{opened}\n{text}\n{closed}{after}"
