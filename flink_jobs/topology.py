"""What the topologies are put together from: keys in the JVM, and tables that write to Kafka."""

from __future__ import annotations

from pyflink.common import Types
from pyflink.datastream import DataStream
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from flink_jobs.submission_settings import SubmissionSettings

__all__ = ["BLOBS", "BYTES", "INTS", "exactly_once", "keyed", "sink_table"]

BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
INTS, BLOBS = Types.OBJECT_ARRAY(Types.INT()), Types.OBJECT_ARRAY(BYTES)
# 4 MiB: a dead letter repeats what came in, and a record of a batch may be as large as the broker takes
_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_BATCH_BYTES = 256 * 1024  # a hundred decisions; the producer's default holds eight


def keyed(stream: DataStream) -> KeyedStream:
    """Key by the first field in the JVM: ``DataStream.key_by`` would put a Python operator in front."""
    jvm = get_gateway().jvm
    selector = jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    key_type = Types.ROW([Types.INT()]).get_java_type_info()
    return KeyedStream(stream._j_data_stream.keyBy(selector, key_type), None, stream)  # noqa: SLF001


def exactly_once(settings: SubmissionSettings) -> dict[str, str]:
    """Options of a sink whose records are visible to read_committed readers with the checkpoint, and once."""
    return {
        "sink.delivery-guarantee": "exactly-once",
        "sink.transactional-id-prefix": settings.transactional_id_prefix,
        "properties.transaction.timeout.ms": str(settings.transaction_timeout_ms),
    }


def sink_table(table_env: StreamTableEnvironment, name: str, topics: str, settings: SubmissionSettings, options: dict[str, str]) -> None:
    """Declare a table that writes keys and values to a topic, or to that of each row where ``topics`` names several (``;``)."""
    topic_column = ", topic STRING METADATA" if ";" in topics else ""
    extra = "".join(f", '{option}' = '{value}'" for option, value in options.items())
    table_env.execute_sql(
        f"""CREATE TEMPORARY TABLE {name} (k BYTES, v BYTES{topic_column}) WITH (
            'connector' = 'kafka', 'topic' = '{topics}',
            'properties.bootstrap.servers' = '{settings.bootstrap_servers}',
            'properties.max.request.size' = '{_MAX_REQUEST_BYTES}', 'properties.batch.size' = '{_BATCH_BYTES}',
            'key.format' = 'raw', 'key.fields' = 'k', 'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'{extra}
        )"""
    )
