// Ships lines with the OpenTelemetry SDK: OTLP over HTTP in JSON. Arguments: the server's address, the number of lines.
import { SeverityNumber } from '@opentelemetry/api-logs'
import { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs'

const [base, count] = process.argv.slice(2)
const exporter = new OTLPLogExporter({ url: `${base}/otlp/v1/logs` })
const provider = new LoggerProvider({
  resource: resourceFromAttributes({ 'service.name': 'opentelemetry-node', 'host.name': 'h1' }),
  processors: [new BatchLogRecordProcessor({ exporter })]
})
const logger = provider.getLogger('clients', '1.2')
for (let number = 0; number < Number(count); number++) {
  logger.emit({
    severityNumber: SeverityNumber.WARN,
    severityText: 'WARN',
    body: `line ${String(number).padStart(4, '0')}`,
    attributes: { 'user.id': 'u7' }
  })
}
await provider.shutdown()
