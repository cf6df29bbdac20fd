"""What the demo checks outside the database: the mails as files, and what Flower shows to whom."""

import base64
import json
import urllib.error
import urllib.request
from collections import Counter
from email import message_from_bytes, policy
from pathlib import Path

from worker.embedded.processes import Embedded


def check_mails(folder: Path, expected: int) -> list[str]:
    """Every email is there, once, as text and HTML."""
    mails = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in sorted(folder.glob("*.eml"))]
    problems = [] if len(mails) == expected else [f"there are {len(mails)} mails, expected {expected}"]
    for message_id, count in Counter(mail["Message-ID"] for mail in mails).items():
        if count > 1:
            problems.append(f"the mail {message_id} is there {count} times")
    for mail in mails:
        kinds = [part.get_content_type() for part in mail.iter_parts()] if mail.is_multipart() else []
        if mail.get_content_type() != "multipart/alternative" or kinds != ["text/plain", "text/html"]:
            problems.append(f"the mail {mail['Message-ID']} is not text and HTML")
    return problems


def check_flower(stack: Embedded) -> list[str]:
    """Flower is closed without its password, and lists the tasks with it."""
    problems = []
    status, _ = _get(f"{stack.flower_url}/api/tasks", None)
    if status != 401:
        problems.append(f"Flower answers {status} without a password, expected 401")
    status, body = _get(f"{stack.flower_url}/api/tasks", f"{stack.flower_user}:{stack.flower_password}")
    names = {task["name"] for task in json.loads(body).values()} if status == 200 else set()
    missing = {"notifications.create", "notifications.deliver", "notifications.purge_seen"} - names
    return problems + [f"Flower does not list {name}" for name in sorted(missing)]


def _get(url: str, account: str | None) -> tuple[int, str]:
    headers = {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"} if account else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
