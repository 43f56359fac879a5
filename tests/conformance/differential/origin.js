// The origin in Node: reads each request to its end, and appends one line of JSON to a file for each before it answers.
// Node's parser is told to be as lenient as it can: an origin that forgives is the one that would be deceived.
'use strict'
const { appendFileSync } = require('node:fs')
const { createServer } = require('node:http')
const { createHash } = require('node:crypto')

const [socket, log] = process.argv.slice(2)
const note = (line) => appendFileSync(log, JSON.stringify(line) + '\n')

const server = createServer({ insecureHTTPParser: true, requireHostHeader: false, keepAliveTimeout: 0, requestTimeout: 0,
  headersTimeout: 0, maxHeaderSize: 1 << 20, joinDuplicateHeaders: true }, (request, answer) => {
  const hash = createHash('sha1')
  let length = 0
  const line = (status, done) => note({ id: request.headers['x-request-id'] ?? '', method: request.method,
    path: request.url, authority: request.headers.host ?? '', status, length, hash: done ? hash.digest('hex') : null })
  request.on('data', (data) => { hash.update(data); length += data.length })
  request.on('end', () => {
    line(200, true)
    answer.setHeader('x-seen', request.headers['x-request-id'] ?? '')
    // After a request that asked for another protocol, Node no longer answers what it cannot read (seen in 20.20).
    if (request.headers.upgrade !== undefined) answer.setHeader('connection', 'close')
    answer.end('node')
  })
  request.on('error', () => line(0, false))
})
server.maxHeadersCount = 0
const ended = new WeakSet()
server.on('clientError', (error, socket) => {
  if (ended.has(socket)) return
  ended.add(socket)
  const refused = !['ECONNRESET', 'HPE_INVALID_EOF_STATE'].includes(error.code)
  note({ id: '', method: '', path: error.code, authority: '', status: refused ? 400 : 0, length: 0, hash: null })
  socket.end(refused && socket.writable ? 'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' : '')
})
process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections() })
server.listen(socket)
