// What stands behind Apache httpd, which has no way to log a body itself: tells it in a field what it was given.
'use strict'
const { createHash } = require('node:crypto')
const { createServer } = require('node:http')

const server = createServer({ insecureHTTPParser: true, keepAliveTimeout: 0, requestTimeout: 0 }, (request, answer) => {
  const hash = createHash('sha1')
  let length = 0
  request.on('data', (data) => { hash.update(data); length += data.length })
  request.on('error', () => {})
  request.on('end', () => {
    answer.setHeader('x-body', `${length}:${hash.digest('hex')}`)
    answer.setHeader('x-seen', request.headers['x-request-id'] ?? '')
    answer.end('httpd')
  })
})
server.listen(process.argv[2])
