// node: node.js PORT
const net = require('net')

function echo(c) {
  c.on('error', () => {})
  c.on('data', bytes => {
    if (c.write(bytes)) return
    c.pause()
    c.once('drain', () => c.resume())
  })
}

net.createServer({ noDelay: true }, echo).listen({ port: +process.argv[2], host: '127.0.0.1', backlog: 4096 })
