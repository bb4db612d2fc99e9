"""An S3 server in memory, for what moto's cannot do: reads and listings that lag behind writes, conditional writes in
each way that servers take them, credentials that expire, and deletes that are denied; each beside plain faults.

It knows what s3fs and botocore ask: GET, HEAD, PUT, DELETE, copies, LIST v2, bulk deletes and uploads in parts. Writes
and their conditions hold at once and in one order; it is what is read that lags.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.s3 import CONTROL, Fault, Handler, Proxy

MODES = ("kept", "ignored", "not implemented", "refused")  # how conditions of a write are taken
CONDITIONS = ("If-None-Match", "If-Match")


@dataclass(frozen=True)
class Version:
    """One content of a key, from `since` on; none where it was deleted then."""

    since: float
    content: bytes | None
    etag: str = ""


@dataclass
class Rules:
    """How this server differs from a sound one.

    lag: seconds by which a read or a listing is behind at most, drawn for each. conditions: one of MODES. denied: of
    the methods, as the bucket's policy has it. expired: access keys that are refused from a time on, of the server's
    own clock. answer: how an expired key is refused, status and code.
    """

    lag: float = 0.0
    conditions: str = "kept"
    denied: tuple[str, ...] = ()
    expired: dict[str, float] = field(default_factory=dict)
    answer: tuple[int, str] = (400, "ExpiredToken")
    seed: int = 0


class Refused(Exception):
    """An answer that is an error: status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Store:
    """All buckets as one mapping from `bucket/key` to its versions."""

    def __init__(self) -> None:
        self.versions: dict[str, list[Version]] = {}
        self.uploads: dict[str, tuple[str, str, dict[int, bytes]]] = {}  # id -> path, since, parts
        self.lock = threading.Lock()

    def newest(self, path: str) -> Version | None:
        return self.at(path, 0.0)

    def at(self, path: str, lag: float) -> Version | None:
        """What a reader sees that is so many seconds behind."""
        until = time.monotonic() - lag
        seen = [version for version in self.versions.get(path, ()) if version.since <= until]
        return seen[-1] if seen and seen[-1].content is not None else None

    def write(self, path: str, content: bytes | None) -> str:
        etag = f'"{hashlib.md5(content or b"").hexdigest()}"'
        self.versions.setdefault(path, []).append(Version(time.monotonic(), content, etag))
        return etag


class BucketHandler(Handler):
    """Answers from the store instead of passing on."""

    server: Bucket

    def _pass_on(self, body: bytes, way: str | None) -> None:
        try:
            status, headers, content = self._served(body)
        except Refused as error:
            status, headers = error.status, {"Content-Type": "application/xml"}
            content = f"<Error><Code>{error.code}</Code><Message>{error.code}</Message></Error>".encode()
        if way == "lose the answer":
            return self._hang_up()
        self.send_response_only(status)
        length = headers.pop("Content-Length", str(len(content)))
        for name, value in {**headers, "Content-Length": length, "x-amz-request-id": "1"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if way == "truncate" else content)
        if way == "truncate":
            self._hang_up()

    def _served(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(self.path)
        path, asked = unquote(url.path).lstrip("/"), {k: v[0] for k, v in parse_qs(url.query, True).items()}
        rules = self.server.rules
        self._admit(rules)
        with self.server.store.lock:
            if "/" not in path.rstrip("/"):
                return self._bucket(path.rstrip("/"), asked, body)
            return getattr(self, f"_{self.command.lower()}")(path, asked, body)

    def _admit(self, rules: Rules) -> None:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        until = rules.expired.get(found[1] if found else "")
        if until is not None and time.time() >= until:
            self.server.note_more("expired")
            raise Refused(*rules.answer)
        if self.command in rules.denied or (
            self.command == "POST" and "DELETE" in rules.denied and "delete" in self.path
        ):
            self.server.note_more("denied")
            raise Refused(403, "AccessDenied")

    def _seen(self, path: str) -> Version | None:
        lag = self.server.lag()
        found, newest = self.server.store.at(path, lag), self.server.store.newest(path)
        if found is not newest:
            self.server.note_more("lagged")
        return found

    def _get(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        version = self._seen(path)
        if version is None or version.content is None:
            raise Refused(404, "NoSuchKey")
        content, headers, status = version.content, {"ETag": version.etag, "Last-Modified": _http_date()}, 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(found[1]), int(found[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            content, status = content[begin : end + 1], 206
        return status, headers, content

    def _head(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return self._get(path, asked, body)

    def _put(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        store = self.server.store
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _unchunked(body)
        if "uploadId" in asked:
            self._upload(asked)[2][int(asked["partNumber"])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if source := self.headers.get("x-amz-copy-source"):
            version = store.newest(unquote(source).lstrip("/"))
            if version is None or version.content is None:
                raise Refused(404, "NoSuchKey")
            etag = store.write(path, version.content)
            return 200, {}, f"<CopyObjectResult><ETag>{escape(etag)}</ETag></CopyObjectResult>".encode()
        self._check_conditions(path)
        return 200, {"ETag": store.write(path, body)}, b""

    def _check_conditions(self, path: str) -> None:
        given = {name: value for name in CONDITIONS if (value := self.headers.get(name))}
        mode, newest = self.server.rules.conditions, self.server.store.newest(path)
        if not given or mode == "ignored":
            return
        if mode != "kept":
            self.server.note_more("condition refused")
            raise Refused(*((501, "NotImplemented") if mode == "not implemented" else (400, "InvalidArgument")))
        if "If-Match" in given and newest is None:
            raise Refused(404, "NoSuchKey")
        if ("If-None-Match" in given and newest) or (
            "If-Match" in given and newest and newest.etag != given["If-Match"]
        ):
            self.server.note_more("precondition failed")
            raise Refused(412, "PreconditionFailed")
        if self.server.draws(0.1):
            self.server.note_more("conditional conflict")
            raise Refused(409, "ConditionalRequestConflict")

    def _delete(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if "uploadId" in asked:
            self.server.store.uploads.pop(asked["uploadId"], None)
        else:
            self.server.store.write(path, None)
        return 204, {}, b""

    def _post(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        store = self.server.store
        if "uploads" in asked:
            made = uuid.uuid4().hex
            store.uploads[made] = path, _iso_date(), {}
            return (
                200,
                {},
                f"<InitiateMultipartUploadResult><UploadId>{made}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        _, _, parts = self._upload(asked)
        self._check_conditions(path)
        etag = store.write(path, b"".join(parts[number] for number in sorted(parts)))
        store.uploads.pop(asked["uploadId"])
        return (
            200,
            {},
            f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>".encode(),
        )

    def _upload(self, asked: dict[str, str]) -> tuple[str, str, dict[int, bytes]]:
        found = self.server.store.uploads.get(asked["uploadId"])
        if found is None:
            raise Refused(404, "NoSuchUpload")
        return found

    def _bucket(self, bucket: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.command == "POST" and "delete" in asked:
            for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                self.server.store.write(f"{bucket}/{key}", None)
            return 200, {}, b"<DeleteResult/>"
        if self.command == "GET" and "uploads" in asked:
            return 200, {"Content-Type": "application/xml"}, self._uploads(bucket, asked).encode()
        if self.command == "GET" and "list-type" in asked:
            return 200, {"Content-Type": "application/xml"}, self._listing(bucket, asked).encode()
        return 200, {}, b""

    def _uploads(self, bucket: str, asked: dict[str, str]) -> str:
        found = [
            f"<Upload><Key>{escape(path.partition('/')[2])}</Key><UploadId>{made}</UploadId><Initiated>{since}</Initiated></Upload>"
            for made, (path, since, _) in self.server.store.uploads.items()
            if path.startswith(f"{bucket}/{asked.get('prefix', '')}")
        ]
        return (
            f"<ListMultipartUploadsResult>{''.join(found)}<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
        )

    def _listing(self, bucket: str, asked: dict[str, str]) -> str:
        prefix, delimiter, lag = asked.get("prefix", ""), asked.get("delimiter", ""), self.server.lag()
        most, after = int(asked.get("max-keys", 1000)), asked.get("continuation-token", "")
        store, contents, folders, last = self.server.store, [], set(), ""
        for path in sorted(path for path in store.versions if path.startswith(f"{bucket}/{prefix}")):
            key, version = path.partition("/")[2], store.at(path, lag)
            if version is not store.newest(path):
                self.server.note_more("lagged")
            if version is None or version.content is None or key <= after:
                continue
            folder = delimiter and key[len(prefix) :].partition(delimiter)
            if len(contents) + len(folders) >= most:
                break
            last = key
            if folder and folder[1]:
                folders.add(prefix + folder[0] + delimiter)
            else:
                size = len(version.content)
                contents.append(
                    f"<Contents><Key>{quote(key)}</Key><LastModified>{_iso_date()}</LastModified>"
                    f"<ETag>{escape(version.etag)}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
        else:
            last = ""
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{quote(last)}</NextContinuationToken>"
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        return (
            f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(contents) + len(folders)}</KeyCount>"
            f"<EncodingType>url</EncodingType>{more if last else '<IsTruncated>false</IsTruncated>'}"
            f"{''.join(contents)}{prefixes}</ListBucketResult>"
        )

    def _control(self, body: bytes) -> None:
        if self.command == "POST":
            given = json.loads(body)
            self.server.rules = Rules(**{**asdict(self.server.rules), **given.pop("rules", {})})
            if given:
                self.server.fault = Fault(**given)
        self._answer(
            200, json.dumps({**self.server.counts, "requests": len(self.server.seen)}).encode(), "application/json"
        )


class Bucket(Proxy):
    """The server; `rules` and `fault` say how it fails. counts has what each of them did."""

    def __init__(self, rules: Rules, port: int = 0) -> None:
        super().__init__(("", 0), port, handler=BucketHandler)
        self.store, self.rules = Store(), rules
        self._random = random.Random(rules.seed)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def lag(self) -> float:
        with self._lock:
            return self._random.random() * self.rules.lag

    def draws(self, share: float) -> bool:
        with self._lock:
            return self._random.random() < share

    def note_more(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def serve(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


def control(url: str, **settings: Any) -> dict[str, int]:
    """Sets how a server in another process fails, where settings are given; returns its counts."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("POST" if settings else "GET", CONTROL, json.dumps(settings) if settings else None)
    found: dict[str, int] = json.loads(connection.getresponse().read())
    connection.close()
    return found


def environment(url: str) -> dict[str, str]:
    """What s3fs takes from the environment to come here."""
    return {
        "AWS_ENDPOINT_URL": url, "S3_ENDPOINT": url, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


def _unchunked(body: bytes) -> bytes:
    found, rest = b"", body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return found
        found, rest = found + rest[:length], rest[length + 2 :]
    return found


def _http_date() -> str:
    return datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def _iso_date() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


if __name__ == "__main__":  # `python -m tests.schedules.bucket PORT`: serves until it is ended
    import sys

    Bucket(Rules(), int(sys.argv[1])).serve_forever(0.05)
