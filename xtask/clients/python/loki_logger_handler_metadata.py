"""Ships lines with loki-logger-handler, in gzip and with structured metadata. Arguments: address, number of lines."""

import logging
import sys

from loki_logger_handler.loki_logger_handler import LokiLoggerHandler

base, count = sys.argv[1], int(sys.argv[2])
handler = LokiLoggerHandler(
    url=f"{base}/loki/api/v1/push",
    labels={"app": "loki-logger-handler"},
    enable_self_errors=True,
    enable_structured_loki_metadata=True,
    loki_metadata={"cluster_node": "n1"},
    loki_metadata_keys=["request"],
)
logger = logging.getLogger("clients")
logger.addHandler(handler)
for number in range(count):
    logger.warning("line %04d", number, extra={"request": f"r{number}"})
handler._send()
sys.exit(1 if handler.error else 0)
