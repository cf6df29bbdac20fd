"""Bellhop: a notification delivery worker for Celery.

Applications import `worker.client` and `worker.inbox`; `celery -A worker worker` finds the app in `worker.celery`.
"""
