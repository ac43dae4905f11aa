"""Ships lines with the OpenTelemetry SDK: OTLP over HTTP, protobuf in gzip. Arguments: address, number of lines."""

import logging
import sys

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

base, count = sys.argv[1], int(sys.argv[2])
resource = Resource.create(
    {"service.name": "opentelemetry-python", "deployment.environment": "test", "host.name": "h1"}
)
provider = LoggerProvider(resource=resource)
exporter = OTLPLogExporter(endpoint=f"{base}/otlp/v1/logs", compression=Compression.Gzip)
provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
logger = logging.getLogger("clients")
logger.addHandler(LoggingHandler(logger_provider=provider))
for number in range(count):
    logger.warning("line %04d", number, extra={"user.id": "u7", "sizes": [1, 2]})
provider.shutdown()
