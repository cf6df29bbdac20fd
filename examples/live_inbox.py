"""Watch one inbox: `python examples/live_inbox.py user-42` prints its counts, now and whenever they change."""

import json
import os
import sys
from typing import Any

import redis

from worker import inbox
from worker.database import transaction

recipient = sys.argv[1]
server: Any = redis.Redis.from_url(os.environ.get("SIGNAL_URL") or os.environ["BROKER_URL"])
with server, server.pubsub(ignore_subscribe_messages=True) as listener:
    listener.subscribe(f"bellhop:inbox:{recipient}")  # first listen, then read: nothing falls between
    listener.get_message(timeout=5)  # the server's word that it heard us
    with transaction() as session:
        counts = inbox.counts(session, recipient)
    print(f"{counts.unseen} unseen of {counts.total}", flush=True)
    for message in listener.listen():
        signal = json.loads(message["data"])  # {"id", "recipient_id", "total", "unseen"}; the text is in the inbox
        print(f"{signal['unseen']} unseen of {signal['total']}; changed: {signal['id']}", flush=True)
