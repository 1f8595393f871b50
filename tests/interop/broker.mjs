// The broker aedes on a loopback port, as its README starts it: node broker.mjs PORT
import net from 'node:net'
import Aedes from 'aedes'

const broker = new Aedes()
const server = net.createServer(broker.handle)
server.listen(Number(process.argv[2]), '127.0.0.1')
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close()
    broker.close(() => process.exit(0))
  })
}
