"""The contract of queues over both transports."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("contracts.check_queue")

from contracts.check_queue import QueueContract  # noqa: E402 - rewritten first


class TestIpc(QueueContract):
    """Between processes of one machine; abstract names leave no file."""

    endpoint = "ipc://@NAME"


class TestTcp(QueueContract):
    """Between machines; pixels travel with the message."""

    endpoint = "tcp://127.0.0.1:*"
