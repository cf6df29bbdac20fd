"""A small catalogue of events for tests, written to a folder, so that no test depends on the shipped texts."""

from pathlib import Path

EVENTS = """
[book_available]
email = true
required = ["title"]
optional = ["pickup_location"]
kinds = { title = "text" }

[quiet]
required = ["title"]

[off]
active = false

[password_reset]
email = true
required = ["link"]
secret = ["link"]
priority = "high"
preference = false
retention_days = 7

[mention]
email = true
required = ["who"]
dedupe = true
to_self = false

[follow_request]
email = true
required = ["who"]
dedupe = true

[follow]
email = true
required = ["who"]
dedupe = true
supersedes = ["follow_request"]
"""

TEMPLATES = {
    "_layout/email.html": (
        '<html lang="{{ lang }}" dir="{{ dir }}"><head><title>{{ subject }}</title></head>'
        "<body>{{ body }}</body></html>"
    ),
    "_layout/email.txt": "{{ body }}\n",
    "book_available/en/title.txt": "{{ title }} is here",
    "book_available/en/text.txt": (
        "Pick up {{ title }}{% if pickup_location is defined %} at {{ pickup_location }}{% endif %}."
    ),
    "book_available/en/email.html": "<p>Pick up <b>{{ title }}</b>.</p>",
    "book_available/de/title.txt": "{{ title }} ist da",
    "book_available/de/text.txt": "{{ title }} liegt bereit.",
    "book_available/pt/title.txt": "{{ title }} chegou",
    "book_available/pt/text.txt": "{{ title }} está disponível.",
    "book_available/pt/subject.txt": "Livro: {{ title }}",
    "quiet/en/title.txt": "{{ title }}",
    "quiet/en/text.txt": "About {{ title }}",
    "password_reset/en/title.txt": "Reset your password",
    "password_reset/en/text.txt": "We sent you a link.",
    "password_reset/en/email.txt": "Reset it here: {{ link }}",
    "mention/en/title.txt": "{{ who }} mentions you",
    "mention/en/text.txt": "{{ who }} mentions you.",
    "follow_request/en/title.txt": "{{ who }} asks to follow you",
    "follow_request/en/text.txt": "{{ who }} asks to follow you.",
    "follow/en/title.txt": "{{ who }} follows you",
    "follow/en/text.txt": "{{ who }} follows you.",
}


def write_catalogue(folder: Path) -> dict[str, str]:
    """Write the events and templates; gives the settings that lead to them."""
    for name, text in TEMPLATES.items():
        path = folder / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "events.toml").write_text(EVENTS, encoding="utf-8")
    return {"CONFIG_DIR": str(folder / "config"), "TEMPLATES_DIR": str(folder / "templates")}
