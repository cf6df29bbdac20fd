"""Flower's pages, as a browser gets them."""

import base64
import json
import urllib.error
import urllib.request

FLOWER_LOGIN = "operator:flower-password"


def flower_page(port: int, path: str, login: str = FLOWER_LOGIN) -> tuple[int, str]:
    """Ask Flower for a page; gives the HTTP status, 0 where nobody answers, and the body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except OSError:
        return 0, ""


def all_pages(port: int, task_ids: list[str]) -> dict[str, str]:
    """Give every page and API answer that shows tasks or workers, by path."""
    workers = json.loads(flower_page(port, "/api/workers?refresh=1")[1] or "{}")
    paths = ["/api/tasks?limit=10000", "/api/workers?refresh=1", "/workers", "/tasks", "/broker", "/metrics"]
    paths += [f"/task/{id}" for id in task_ids] + [f"/api/task/info/{id}" for id in task_ids]
    paths += [f"/worker/{name}" for name in workers]
    return {path: flower_page(port, path)[1] for path in paths}
