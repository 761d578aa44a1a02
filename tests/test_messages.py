"""Messages on the wire: nothing is lost, nothing changes unnoticed, nothing else is accepted."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import msgspec
import pytest
from samples import info_of, tracks_of

from streamer.errors import MessageError
from streamer.messages import (
    MAX_MESSAGE_BYTES,
    Annotation,
    Beat,
    Body,
    ControlMessage,
    Done,
    EdgeMessage,
    Ended,
    EndOfStream,
    Frame,
    FrameInfo,
    Happening,
    Hello,
    Item,
    LabelMap,
    Notice,
    PeerDown,
    PeerUp,
    PoolGrant,
    PoolRequest,
    Readings,
    Ready,
    Skipped,
    Stop,
    SupervisorMessage,
    decode_control,
    decode_edge,
    decode_supervisor,
    encode,
)

INFO = FrameInfo("gate", 7, 2, 34, 18, 90, (1, 25), 1000, 500, True, "bt709", 25.0)
FRAME = Frame(INFO, 9, 3, 4)
SEEN = tracks_of(info_of(1), {4: (1.0, 2.0, 3.0, 4.0)}, ended=(2,))
TRACKS = msgspec.structs.replace(
    SEEN,
    detections=msgspec.structs.replace(SEEN.detections, outlines=((b"\0\0\x80\x3f" * 6,),)),
    happenings=(Happening("zone.enter", {"zone": "yard", "track_id": 4}),),
    labels=("red",),
    readings=Readings((2,), (True,), ((3, 1),), b"\0\0\x20\x42"),
    rows=b"\0\0\0\0",
)

Decode = Callable[[bytes], msgspec.Struct]
DECODERS: dict[str, Decode] = {
    "edge": decode_edge,
    "control": decode_control,
    "supervisor": decode_supervisor,
}
MESSAGES: list[tuple[str, msgspec.Struct, str]] = [
    # who reads it, the message, and its bytes: a change here is a new version of its tag
    (
        "edge",
        Hello("encode.gate", 2, 16, 7, True),
        "96a768656c6c6f2f31ab656e636f64652e67617465021007c3",
    ),
    ("edge", Done(5), "92a6646f6e652f3105"),
    (
        "edge",
        Item(5, FRAME),
        "93a66974656d2f310595a76672616d652f319ca467617465070222125a920119cd03e8cd01f4c3a56274373039"
        "cb4039000000000000090304",
    ),
    (
        "edge",
        Item(6, TRACKS.detections),
        "93a66974656d2f31069bac646574656374696f6e732f319ca4676174650101221201920119cf18ea07f0"
        "4f3c3b15cf000000012c684c00c2a56274363031cb0000000000000000c4100000803f00000040000040"
        "4000008040c4040000603fc402000092a6706572736f6ea3636172a0c400c400909191c4180000803f00"
        "00803f0000803f0000803f0000803f0000803f",
    ),
    (
        "edge",
        Item(7, TRACKS),
        "93a66974656d2f31079da8747261636b732f319ca4676174650101221201920119cf18ea07f04f3c3b15"
        "cf000000012c684c00c2a56274363031cb00000000000000009bac646574656374696f6e732f319ca467"
        "6174650101221201920119cf18ea07f04f3c3b15cf000000012c684c00c2a56274363031cb0000000000"
        "000000c4100000803f000000400000404000008040c4040000603fc402000092a6706572736f6ea36361"
        "72a0c400c400909191c4180000803f0000803f0000803f0000803f0000803f0000803fc4080400000000"
        "000000c4100000803f000000400000404000008040c4080000000000000000c4040000603fc402000091"
        "029192aa7a6f6e652e656e74657282a47a6f6e65a479617264a8747261636b5f69640491a37265649491"
        "0291c391920301c40400002042c40400000000",
    ),
    (
        "edge",
        Item(8, Skipped("gate", 7, "infer_busy")),
        "93a66974656d2f310895a9736b69707065642f31a46761746507aa696e6665725f62757379a5696e666572",
    ),
    (
        "edge",
        Item(
            10,
            Annotation(
                INFO,
                (Happening("action.started", {"class": "fight", "score": 0.5}),),
                ((0, "fight 0.50"),),
                LabelMap(2, 1, b"ab", ("sky", "road"), (0.5, 0.5)),
            ),
        ),
        "93a66974656d2f310a96ac616e6e6f746174696f6e2f319ca467617465070222125a920119cd03e8cd01"
        "f4c3a56274373039cb40390000000000009192ae616374696f6e2e7374617274656482a5636c617373a5"
        "6669676874a573636f7265cb3fe0000000000000919200aa666967687420302e3530950201c402616292"
        "a3736b79a4726f616492cb3fe0000000000000cb3fe0000000000000a0",
    ),
    ("edge", Item(9, EndOfStream("gate")), "93a66974656d2f310993a5656e642f31a46761746590"),
    ("control", Ready("ipc://@x"), "92a772656164792f31a86970633a2f2f4078"),
    (
        "control",
        Beat({"frames": 3}, {"gate": {"infer_busy": 2}}, {"gate": {120: 1}}),
        "94a6626561742f3181a66672616d65730381a46761746581aa696e6665725f627573790281a467617465817801",
    ),
    (
        "control",
        Notice("stream.up", "gate", {"width": 34, "fps": None}, 1000, 7, 3.5),
        "97a86e6f746963652f31a973747265616d2e7570a46761746582a5776964746822a3667073c0cd03e807"
        "cb400c000000000000",
    ),
    (
        "control",
        PoolRequest("gate", 20, 34, 18),
        "95ae706f6f6c2d726571756573742f31a467617465142212",
    ),
    (
        "control",
        Ended("it broke", "SourceError", "io"),
        "94a7656e6465642f31a869742062726f6b65ab536f757263654572726f72a2696f",
    ),
    ("supervisor", PoolGrant(9, 2), "94ac706f6f6c2d6772616e742f310902a0"),
    (
        "supervisor",
        PeerUp("infer", 1, "ipc://@x"),
        "94a9706565722d75702f31a5696e66657201a86970633a2f2f4078",
    ),
    ("supervisor", PeerDown("infer", 1, True), "94ab706565722d646f776e2f31a5696e66657201c3"),
    ("supervisor", Stop(True), "92a673746f702f31c3"),
]
IDS = [type(getattr(message, "body", message)).__name__ for _, message, _ in MESSAGES]


@pytest.mark.parametrize(("reader", "message", "golden"), MESSAGES, ids=IDS)
def test_messages_come_back_equal_and_keep_their_bytes(
    reader: str, message: msgspec.Struct, golden: str
) -> None:
    data = encode(message)
    assert DECODERS[reader](data) == message
    assert DECODERS[reader](memoryview(data)) == message
    assert data.hex() == golden


def test_every_type_of_message_is_tested() -> None:
    unions = {"edge": EdgeMessage, "control": ControlMessage, "supervisor": SupervisorMessage}
    tested = {name: {type(m) for reader, m, _ in MESSAGES if reader == name} for name in unions}
    tested["supervisor"].add(Notice)  # the same as to the supervisor
    assert {name: set(union.__args__) for name, union in unions.items()} == tested
    bodies = {type(m.body) for _, m, _ in MESSAGES if isinstance(m, Item)}
    assert bodies == set(Body.__args__)


@pytest.mark.parametrize(("reader", "message", "golden"), MESSAGES, ids=IDS)
def test_another_version_is_told_apart(reader: str, message: msgspec.Struct, golden: str) -> None:
    fields = msgspec.msgpack.decode(encode(message))
    name, slash, version = fields[0].partition("/")
    assert (slash, version) == ("/", "1")
    fields[0] = f"{name}/2"
    text = rf"^{reader_name(reader)}: not a message of this version .*/2"
    with pytest.raises(MessageError, match=text):
        DECODERS[reader](msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(("reader", "message", "golden"), MESSAGES, ids=IDS)
def test_a_message_is_refused_where_it_does_not_belong(
    reader: str, message: msgspec.Struct, golden: str
) -> None:
    for other in set(DECODERS) - {reader}:
        if isinstance(message, Notice) and other == "supervisor":
            continue
        with pytest.raises(MessageError, match=f"^{reader_name(other)}: not a message of this ver"):
            DECODERS[other](encode(message))


@pytest.mark.parametrize("reader", DECODERS)
def test_any_other_bytes_are_a_message_error(reader: str) -> None:
    generator = random.Random(reader)
    decode = DECODERS[reader]
    known = [encode(message) for name, message, _ in MESSAGES if name == reader]
    refused = 0
    for _ in range(3000):
        data = bytearray(generator.choice(known))
        for _ in range(generator.randrange(4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        cut = generator.randrange(len(data) + 1)
        for damaged in (data, data[:cut], generator.randbytes(generator.randrange(60))):
            try:
                decode(bytes(damaged))
            except MessageError:
                refused += 1
    assert refused > 3000


@pytest.mark.parametrize("reader", DECODERS)
def test_too_large_a_message_is_refused_before_it_is_read(reader: str) -> None:
    with pytest.raises(
        MessageError, match=rf"^{reader_name(reader)}: message of 4000001 bytes is over 4000000; ig"
    ):
        DECODERS[reader](bytes(MAX_MESSAGE_BYTES + 1))


def test_ten_thousand_boxes_are_small_enough() -> None:
    boxes = dict.fromkeys(range(10000), (0.0, 0.0, 9.0, 9.0))
    assert len(encode(Item(1, tracks_of(info_of(0), boxes)))) < MAX_MESSAGE_BYTES / 4


@pytest.mark.parametrize(
    "message",
    [
        Hello("encode", 0, 0),
        Hello("encode", 0, -1),
        Item(-1, EndOfStream("gate")),
        Item(1, Frame(INFO, 9, -1, 4)),
        Item(1, Frame(msgspec.structs.replace(INFO, width=0), 9, 0, 4)),
        Item(1, Frame(msgspec.structs.replace(INFO, height=-2), 9, 0, 4)),
        Item(1, Frame(msgspec.structs.replace(INFO, time_base=(1, 0)), 9, 0, 4)),
    ],
)
def test_numbers_that_make_no_sense_are_refused(message: msgspec.Struct) -> None:
    with pytest.raises(MessageError, match=r"queue: not a message.*Expected `int` >= [01]"):
        decode_edge(encode(message))


def test_media_time_is_exact() -> None:
    info = msgspec.structs.replace(INFO, pts=10**15 + 1, time_base=(1001, 30000))
    assert info.pts_s == Fraction((10**15 + 1) * 1001, 30000)
    assert info.pts_ns == (10**15 + 1) * 1001 * 10**9 // 30000


def reader_name(reader: str) -> str:
    """What an error says of its reader."""
    return "queue" if reader == "edge" else reader
