"""Other tooling: a client of the agent that knows nothing but the protos.

client.py GENERATED CERTIFICATES ADDRESS NAME COMMAND [FOLDER [ARTIFACT]]

GENERATED holds what protoc made of agent.proto, CERTIFICATES has ca.crt, tls.crt and tls.key, NAME is the DNS name that the
agent's certificate must carry. Prints one JSON document.
"""

import hashlib
import json
import pathlib
import sys

import grpc

generated, certificates, address, name, command = sys.argv[1:6]
sys.path.insert(0, generated)
from keepsake.agent.v1 import agent_pb2 as pb  # noqa: E402
from keepsake.agent.v1 import agent_pb2_grpc  # noqa: E402

CHUNK = 256 * 1024


def channel():
    read = lambda file: (pathlib.Path(certificates) / file).read_bytes()
    credentials = grpc.ssl_channel_credentials(read("ca.crt"), read("tls.key"), read("tls.crt"))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


def health(of):
    # The health service is gRPC's own; its two messages are small enough to be written as bytes.
    check = of.unary_unary("/grpc.health.v1.Health/Check", lambda b: b, lambda b: b)
    return {"serving": check(b"", timeout=10) == b"\x08\x01"}


def describe(agent):
    told = agent.Describe(pb.DescribeRequest(), timeout=10)
    return {"installation": told.installation, "component": told.component, "engine": told.engine, "problems": list(told.problems)}


def dump(agent, folder):
    """Writes each artifact to a file of its name, and the report beside them."""
    digest, out, report, lengths = None, None, None, {}
    for part in agent.Dump(pb.DumpRequest(), timeout=60):
        assert report is None, "something came after the report"
        which = part.WhichOneof("part")
        if which == "header":
            artifact = part.header.artifact
            out, digest, length = open(folder / artifact, "wb"), hashlib.sha256(), 0
        elif which == "chunk":
            out.write(part.chunk)
            digest.update(part.chunk)
            length += len(part.chunk)
        elif which == "trailer":
            out.close()
            assert part.trailer.length == length, "the length is wrong"
            assert part.trailer.sha256 == digest.digest(), "the digest is wrong"
            lengths[artifact] = length
        else:
            report = part.report
    assert report is not None, "the stream ended without a report: this is no dump"
    (folder / "report").write_bytes(report.SerializeToString())
    return {"artifacts": lengths, "server": report.server, "counts": dict(report.counts)}


def requests(folder, artifact, trailer=True, flip=False):
    yield pb.LoadRequest(report=pb.DumpReport.FromString((folder / "report").read_bytes()))
    yield pb.LoadRequest(header=pb.StreamHeader(artifact=artifact))
    digest, length = hashlib.sha256(), 0
    with open(folder / artifact, "rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            length += len(chunk)
            yield pb.LoadRequest(chunk=chunk)
    if flip:
        digest.update(b"another byte")
    if trailer:
        yield pb.LoadRequest(trailer=pb.StreamTrailer(length=length, sha256=digest.digest()))


def load(agent, stream):
    try:
        return {"counts": dict(agent.Load(stream, timeout=120).report.counts)}
    except grpc.RpcError as error:
        return {"code": error.code().name, "text": error.details()}


with channel() as connected:
    agent = agent_pb2_grpc.AgentStub(connected)
    folder = pathlib.Path(sys.argv[6]) if len(sys.argv) > 6 else None
    artifact = sys.argv[7] if len(sys.argv) > 7 else None
    done = {
        "health": lambda: health(connected),
        "describe": lambda: describe(agent),
        "dump": lambda: dump(agent, folder),
        "load": lambda: load(agent, requests(folder, artifact)),
        "load-without-trailer": lambda: load(agent, requests(folder, artifact, trailer=False)),
        "load-with-wrong-digest": lambda: load(agent, requests(folder, artifact, flip=True)),
    }[command]()
print(json.dumps(done))
