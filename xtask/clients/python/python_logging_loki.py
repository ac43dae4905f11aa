"""Ships lines with python-logging-loki. Arguments: the server's address, the number of lines."""

import logging
import sys

import logging_loki

base, count = sys.argv[1], int(sys.argv[2])
handler = logging_loki.LokiHandler(
    url=f"{base}/loki/api/v1/push", tags={"app": "python-logging-loki"}, version="1"
)
logger = logging.getLogger("clients")
logger.addHandler(handler)
for number in range(count):
    logger.warning("line %04d", number, extra={"tags": {"team": "a b"}})
