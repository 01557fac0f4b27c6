"""A kernel client that cannot miss a reply: what keeps a notebook with Output widgets from hanging.

nbclient plays the front end's part for Output widgets: it sends on the kernel's shell socket while another task waits
for that socket to become readable. The wake-up is edge-triggered, and sending can swallow it: the reply lies there and
nobody looks (nbclient #312). A client that looks again every tenth of a second does not depend on it.
"""

from queue import Empty
from time import monotonic
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

LOOK_AGAIN = 0.1  # seconds


class PollingChannel(AsyncZMQSocketChannel):
    """A channel that looks for messages again and again while it waits."""

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:  # type: ignore[override]
        """The next message; Empty when none came within ``timeout`` seconds (None: wait for ever)."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - monotonic())
            try:
                return await super().get_msg(timeout=max(left, 0))
            except Empty:
                if deadline is not None and monotonic() >= deadline:
                    raise


class PollingKernelClient(AsyncKernelClient):
    shell_channel_class = Type(PollingChannel)


class PollingKernelManager(AsyncKernelManager):
    """What an nbclient NotebookClient takes as its ``kernel_manager_class`` so as not to hang."""

    client_factory = Type(PollingKernelClient)
