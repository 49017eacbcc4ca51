"""What an MLflow server with S3 behind it adds: multipart uploads over pre-signed URLs, in one small HTTP server.

Stands before ``upstream`` for nothing else: only ``mpu/…`` and the parts' own PUTs are answered. ``objects`` holds
what was completed, ``open_uploads`` what was neither completed nor aborted, ``refuse_part`` answers 403 to that part.
"""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import Self

from aiohttp import web

MPU = "/api/2.0/mlflow-artifacts/mpu"


class PresignedStorage:
    """``async with PresignedStorage() as storage``; ``storage.url`` is the MLflow server's URL."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.open_uploads: dict[str, dict[int, bytes]] = {}
        self.refuse_part = 0
        self.url = ""
        self.authorizations: list[str | None] = []
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post(MPU + "/create/{folder:.*}", self._create)
        app.router.add_post(MPU + "/complete/{folder:.*}", self._complete)
        app.router.add_post(MPU + "/abort/{folder:.*}", self._abort)
        app.router.add_put("/bucket/{upload}/{part}", self._part)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        count = (await request.json())["num_parts"]
        upload = f"u{len(self.objects) + len(self.open_uploads)}"
        self.open_uploads[upload] = {}
        credentials = [
            {"url": f"{self.url}/bucket/{upload}/{n}?sig=SECRET%2B", "part_number": n, "headers": {"x-key": "k"}}
            for n in range(1, count + 1)
        ]
        return web.json_response({"upload_id": upload, "credentials": credentials})

    async def _part(self, request: web.Request) -> web.Response:
        number = int(request.match_info["part"])
        self.authorizations.append(request.headers.get("Authorization"))
        signed = request.raw_path.endswith("?sig=SECRET%2B") and request.headers.get("x-key") == "k"
        if not signed or request.content_length is None or number == self.refuse_part:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        data = await request.read()
        self.open_uploads[request.match_info["upload"]][number] = data
        return web.Response(headers={"ETag": hashlib.md5(data).hexdigest()})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        parts = self.open_uploads.pop(body["upload_id"])
        told = {part["part_number"]: part["etag"] for part in body["parts"]}
        if told != {number: hashlib.md5(data).hexdigest() for number, data in parts.items()}:
            return web.json_response({"error_code": "INVALID_PARAMETER_VALUE", "message": "parts"}, status=400)
        name = f"{request.match_info['folder']}/{body['path']}"
        self.objects[name] = b"".join(data for _, data in sorted(parts.items()))
        return web.json_response({})

    async def _abort(self, request: web.Request) -> web.Response:
        self.open_uploads.pop((await request.json())["upload_id"], None)
        return web.json_response({})
