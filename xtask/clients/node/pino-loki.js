// Ships lines with pino-loki, with structured metadata. Arguments: the server's address, the number of lines.
import pino from 'pino'
import { pinoLoki } from 'pino-loki'

const [base, count] = process.argv.slice(2)
const stream = pinoLoki({
  host: base,
  labels: { app: 'pino-loki' },
  batching: { interval: 1 },
  structuredMetaKey: 'meta'
})
const logger = pino(stream)
for (let number = 0; number < Number(count); number++) {
  logger.warn({ meta: { request: `r${number}` } }, `line ${String(number).padStart(4, '0')}`)
}
stream.end()
await new Promise((resolve) => stream.on('close', resolve))
