// node: a worker thread, a child process with its channel, a connection to itself:  node workers.js DATA_FOLDER
const { Worker, isMainThread, parentPort } = require('worker_threads')
const { fork } = require('child_process')
const crypto = require('crypto')
const fs = require('fs')
const net = require('net')

const folder = process.argv[2]
const hash = (text) => crypto.createHash('md5').update(text).digest('hex')
const heard = (one, event) => new Promise((resolve) => one.once(event, resolve))

async function main() {
  const thread = new Worker(__filename)
  const child = fork(__filename, ['child'])
  const server = net.createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1')
  await heard(server, 'listening')
  const socket = net.connect(server.address().port, '127.0.0.1')
  socket.setEncoding('utf8')
  for (let n = 0; !fs.existsSync(`${folder}/finish`); n++) {
    const [byThread, byChild, back] = [heard(thread, 'message'), heard(child, 'message'), heard(socket, 'data')]
    thread.postMessage(`${n}`)
    child.send(`${n}`)
    socket.write(hash(`${n}`))
    for (const answer of await Promise.all([byThread, byChild, back])) {
      if (answer !== hash(`${n}`)) throw new Error(`wrong: ${answer} for ${n}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
    await fs.promises.writeFile(`${folder}/beat`, `${n}\n`)
    if (n === 10) console.log('ready')
  }
  child.disconnect()
  const code = await heard(child, 'exit')
  socket.end()
  server.close()
  await thread.terminate()
  console.log('end', code)
}

if (!isMainThread) parentPort.on('message', (text) => parentPort.postMessage(hash(text)))
else if (folder === 'child') process.on('message', (text) => process.send(hash(text)))
else main()
