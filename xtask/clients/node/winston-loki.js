// Ships lines with winston-loki, as protobuf in snappy or with "json" as JSON.
// Arguments: the server's address, the number of lines, the encoding.
import winston from 'winston'
import LokiTransport from 'winston-loki'

const [base, count, encoding] = process.argv.slice(2)
let failed = false
const transport = new LokiTransport({
  host: base,
  labels: { app: `winston-loki-${encoding}` },
  json: encoding === 'json',
  interval: 1,
  format: winston.format.simple(),
  onConnectionError: (error) => {
    failed = true
    console.error(error)
  }
})
const logger = winston.createLogger({ transports: [transport] })
for (let number = 0; number < Number(count); number++) {
  logger.warn({ message: `line ${String(number).padStart(4, '0')}`, labels: { team: 'a b' } })
}
await new Promise((resolve) => setImmediate(resolve))
await transport.flush()
process.exit(failed ? 1 : 0)
