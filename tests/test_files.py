"""Files are read up to a limit, written whole or not at all, and written by one process at a time."""

import gzip
import http.server
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest

from compactrnn import Engine, ModelFileError
from compactrnn._files import MAX_JSON_BYTES, MAX_JSON_VALUES, PARTIAL, parse_json, read_file, write_atomically
from compactrnn.data import catalog, fetch, load_corpus
from compactrnn.data.text import read_text
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, save, write
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Unary
from compactrnn.tasks.mnist import MnistData, MnistTask
from compactrnn.training.lock import locked
from compactrnn.training.run_folder import RunFolder
from run_folders import RECIPE, invoke


def tanh(metadata=None):
    op = Op(Code.UNARY, Ref(1), 1, a=Ref(0), fn=Unary.TANH)
    ports = [Input("x", 0, (1,))], [Output("y", Ref(1), (1,))]
    return Program([Buffer(1, "input"), Buffer(1)], [], [Segment("forward", (op,))], *ports, metadata or {})


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    assert os.umask(before) == 0o027, "nobody has changed it"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_file_gets_what_the_umask_leaves_and_an_old_one_keeps_its_mode(tmp_path, umask):
    path = tmp_path / "model.crnn"
    save(b"first", path)
    assert mode(path) == 0o640
    path.chmod(0o604)
    save(b"second", path)
    assert mode(path) == 0o604 and path.read_bytes() == b"second" and os.listdir(tmp_path) == ["model.crnn"]


def test_no_write_touches_the_umask(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask belongs to all threads"))
    save(b"x", tmp_path / "model.crnn")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.crnn", tmp_path / "link.crnn"
    if there:
        target.write_bytes(b"old")
    link.symlink_to("far/real.crnn")
    save(b"new", link)
    assert link.is_symlink() and target.read_bytes() == b"new" and os.listdir(tmp_path / "far") == ["real.crnn"]


@pytest.mark.parametrize("kind", ["folder", "FIFO", "device", "loop"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.symlink_to("x")
    with pytest.raises((ValueError, OSError), match=r"regular|symbolic links"):
        save(b"new", path)
    assert os.listdir(tmp_path) == ["x"]
    if kind != "loop":
        with pytest.raises(ValueError, match=f"a {kind}"):
            read_file(path, "file", 10)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device: .*/x"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_an_error_about_the_file(tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"No space left on device: .*run/\.lock"), locked(tmp_path / "run"):
        pass
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        RunFolder(tmp_path).append_metrics({})


def test_many_writers_of_one_file(tmp_path):
    contents = [bytes([n]) * 100_000 for n in range(4)]

    def write_often(content):
        for _ in range(20):
            write_atomically(tmp_path / "x", content)

    threads = [threading.Thread(target=write_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not (tmp_path / "x").exists() or (tmp_path / "x").read_bytes() in contents
    assert os.listdir(tmp_path) == ["x"]


def test_nothing_is_read_before_the_header(tmp_path, monkeypatch):
    path = tmp_path / "big.crnn"
    for content, words in (
        (b"", "not a compactrnn model file"),
        (b"PK\3\4" * 100, "not a compactrnn model file"),
        (lay.MAGIC, "shorter or longer"),
        (write(tanh()), "shorter or longer"),
        (lay.MAGIC + struct.pack("<I", 1) + bytes(100), "version"),
    ):
        path.write_bytes(content)
        os.truncate(path, 1 << 40 if len(content) != 8 else 8)
        tracemalloc.start()
        with pytest.raises(ModelFileError, match=rf"big\.crnn: .*{words}"):
            Engine(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_engines_take_bytes_of_any_kind_and_regular_files_alone(tmp_path):
    data = write(tanh())
    for source in (data, bytearray(data), memoryview(data), memoryview(data).cast("I")):
        assert Engine(source).bytes == len(data)
    os.mkfifo(tmp_path / "fifo")
    for source, words in ((tmp_path / "fifo", "a FIFO"), (tmp_path, "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(ModelFileError, match=words):
            Engine(source)
    with pytest.raises(TypeError, match=r"source: .*got int"):
        Engine(3)  # a descriptor, for open()


MEMORY = {
    "empty lists": "[]",
    "numbers": "0.5",
    "objects": '{"":0}',
    "empty objects": "{}",
    "texts": '"a"',
    "wide texts": '"\U0001f600"',
    "nests": "[[[[1]]]]",
}


@pytest.mark.parametrize("name", MEMORY)
def test_metadata_asks_for_little_memory(monkeypatch, name):
    """A write that stores only part of the bytes."""
    item = MEMORY[name]
    marks = 1 + item.count("[") + item.count("{")
    count = min(MAX_JSON_BYTES // (len(item.encode()) + 1), MAX_JSON_VALUES // marks) - 100
    text = '{"inputs":["x"],"outputs":["y"],"metadata":{"a":[' + ",".join([item] * count) + "]}}"
    with monkeypatch.context() as patch:
        patch.setattr("compactrnn.runtime.file.json.dumps", lambda *_, **__: text)
        data = write(tanh())
    tracemalloc.start()
    engine = Engine(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(engine.metadata["a"]) == count and peak < 200 << 20


@pytest.mark.parametrize("size", [MAX_JSON_BYTES, MAX_JSON_VALUES])
def test_metadata_beyond_the_limits_is_neither_written_nor_read(monkeypatch, size):
    many = "x" * size if size == MAX_JSON_BYTES else [0] * size
    with pytest.raises(ValueError, match="metadata: expected"):
        write(tanh({"a": many}))
    monkeypatch.setattr("compactrnn.runtime.file.check_json_size", lambda _: None)
    monkeypatch.setattr("compactrnn.runtime.file._native.Model", lambda _: None)
    data = write(tanh({"a": many}))
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="JSON"):
        Engine(data)
    with pytest.raises(ModelFileError, match="JSON"):
        read(data)


@pytest.mark.parametrize("text", [b"[" * 10**6, b"{" * 10**5, b"[" * 10**5 + b"]" * 10**5, b"\xff", b"", b"Infinity"])
def test_json_from_outside(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_folder_is_one_processs(tmp_path):
    code = "import sys, time\nfrom pathlib import Path\nfrom compactrnn.training.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    folder = tmp_path / "a" / "run"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {holder.pid} is training in"), locked(folder):
            pass
        (folder / f".half{PARTIAL}").write_bytes(b"torn")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(folder):
        assert os.listdir(folder) == [".lock"], "what was half-written is gone"
        with pytest.raises(ValueError, match=f"process {os.getpid()}"), locked(folder):
            pass
    assert folder.is_dir() and not os.listdir(folder), "it was there before"
    with locked(tmp_path / "b" / "run"):
        pass
    assert os.listdir(tmp_path) == ["a"], "a folder that stays empty goes again"


def test_two_trainings_in_one_folder(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("updates = 20", "updates = 100000"))
    command = [sys.executable, "-m", "compactrnn", "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as first:
        while not (tmp_path / "run" / "checkpoint.safetensors").exists() and first.poll() is None:
            time.sleep(0.02)
        for more in ((), ("--resume",)):
            result = invoke("train", tmp_path / "r.toml", "--out", tmp_path / "run", *more)
            assert result.exit_code == 2 and ("is training in" if more else "--resume") in result.stderr
        assert first.poll() is None
        first.kill()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    updates = [json.loads(line)["update"] for line in lines[:-1]]
    assert updates == sorted(set(updates)), "each line once"


def test_a_start_that_is_killed_claims_nothing(tmp_path):
    """Before the first checkpoint there is nothing to resume from."""
    (tmp_path / "r.toml").write_text(RECIPE.replace("checkpoint_every = 5", "checkpoint_every = 1000000"))
    command = [sys.executable, "-m", "compactrnn", "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run")]
    command += ["--set", "phases.train.updates=1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "run" / "metrics.jsonl").exists() and first.poll() is None:
            time.sleep(0.02)
        first.kill()
    assert not (tmp_path / "run" / "config.json").exists()
    assert invoke("train", tmp_path / "r.toml", "--out", tmp_path / "run").exit_code == 0


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A local server that answers every request with `server.answer`."""
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(found.answer)

        def log_message(self, *_):
            pass

    class Server(http.server.HTTPServer):
        answer = b""

    found = Server(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{found.server_port}/file"
    remote = catalog.Remote("text/file.txt", url, "0" * 64)
    entry = catalog.Dataset("tiny", "a text", "none", paths=("text/file.txt",), remotes=(remote,))
    monkeypatch.setitem(catalog.DATASETS, "tiny", entry)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"not http at all\r\n\r\n", "BadStatusLine"),
        (b"", "RemoteDisconnected"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "Not Found"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nshort", "5 bytes of 100"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: x\r\n\r\nshort", "SHA-256"),
        (b"HTTP/1.0 200 OK\r\n\r\nanother text", "SHA-256"),
        (b"HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "Redirection"),
        (b"HTTP/1.0 302 Found\r\nLocation: http://[\r\n\r\n", "IPv6"),
        (b"HTTP/1.0 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "header"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # http.client forgets to close
def test_downloads_that_fail(server, tmp_path, answer, words):
    server.answer = answer
    result = invoke("data", "get", "tiny")
    assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert not list(tmp_path.rglob("*.*"))


def test_no_network(server, monkeypatch):
    server.server_close()
    assert "download: expected" in invoke("data", "get", "tiny").stderr
    monkeypatch.setenv("http_proxy", "nonsense://[x")
    result = invoke("data", "get", "tiny")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    with pytest.raises(ValueError, match="download"):
        fetch("tiny")


def idx(*shape, value=0):
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + bytes([value]) * _product(shape)


def _product(shape):
    total = 1
    for size in shape:
        total *= max(size, 0)
    return total


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (b"x", b"x", "IDX file"),
        (idx(1, 1, 1), idx(1), "MNIST"),
        (idx(0, 28, 28), idx(0), "MNIST"),
        (idx(1), idx(1), "MNIST"),
        (idx(-1, 28, 28), idx(1), "IDX file"),
        (idx(60_000, 28, 28), idx(59_999), "MNIST"),
        (idx(60_000, 28, 28), idx(60_000, value=10), "label 10"),
        (idx(60_000, 28, 28), idx(60_000, 1), "MNIST"),
    ],
)
def test_digits_that_are_none(tmp_path, monkeypatch, images, labels, words):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for part in ("train", "t10k"):
        (tmp_path / "mnist" / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=words):
        MnistTask(MnistData(), batch_size=2)


def test_texts_are_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("compactrnn.data.text._MAX_BYTES", 1000)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(bytes(10**6), 9))
    for name, content in (("bomb.txt.gz", gzip.compress(bytes(10**6), 9)), ("long.txt", b"x" * 1001)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.* 1,0"):
            read_text(tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="a FIFO"):
        load_corpus(str(tmp_path / "fifo"))
