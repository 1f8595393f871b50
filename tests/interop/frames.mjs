// Compressed payloads, by docs/protocol.md. No I/O: payloads go in, and messages come out in their order.
import { createHash } from 'node:crypto'
import { createDCtx, decompress, decompressUsingDict, init } from '@bokuweb/zstd-wasm'

const MAX_CONTENT = 1_048_576
const MAX_DICTIONARY = 65_536
const PATIENCE = 10_000 // milliseconds for which messages wait for a dictionary
const MAX_WAITING = 5_000
const DICTIONARY = 'system/dictionary/'

await init()
const context = createDCtx()

/** Its dictionary (0: none) and the size of its content; throws where it is no frame, or a large one. RFC 8878, 3.1.1 */
function header(frame) {
  const descriptor = frame[4]
  const sizes = [descriptor & 0x20 ? 1 : 0, 2, 4, 8]
  let at = descriptor & 0x20 ? 5 : 6
  const idBytes = [0, 1, 2, 4][descriptor & 3]
  const sizeBytes = sizes[descriptor >> 6]
  if (frame.length < at + idBytes + sizeBytes) throw new RangeError('the header is cut off')
  const id = idBytes ? frame.readUIntLE(at, idBytes) : 0
  at += idBytes
  if (!sizeBytes) throw new RangeError('it does not state its size')
  let size = sizeBytes === 8 ? Number(frame.readBigUInt64LE(at)) : frame.readUIntLE(at, sizeBytes)
  if (sizeBytes === 2) size += 256
  if (size > MAX_CONTENT) throw new RangeError(`it has ${size} bytes`)
  return { id, size }
}

export const isFrame = (payload) => payload.length > 4 && payload.readUInt32LE() === 0xfd2fb528

/** The id that belongs to a dictionary. */
export function idOf(content) {
  const digest = createHash('sha256').update(content.subarray(8)).digest()
  return 32_768 + Number(digest.readBigUInt64BE() % (2n ** 31n - 32_768n))
}

export const isDictionary = (id, content) =>
  content.length > 8 &&
  content.length <= MAX_DICTIONARY &&
  content.readUInt32LE() === 0xec30a437 &&
  content.readUInt32LE(4) === id &&
  idOf(content) === id

export class Frames {
  #dictionaries = new Map()
  #waiting = []
  #since = 0
  #deliver
  #missing

  /**
   * @param deliver (topic, text, retained): a message to take; the text is null where it can't be read
   * @param missing (id): a dictionary is to be subscribed to
   */
  constructor(deliver, missing = () => {}) {
    this.#deliver = deliver
    this.#missing = missing
  }

  /** What waits for a dictionary: [topic, payload, retained]. */
  get waiting() {
    return this.#waiting
  }

  /** Take a payload; the topic is the one below the prefix. */
  take(topic, payload, retained) {
    if (topic.startsWith(DICTIONARY)) this.#dictionary(Number(topic.slice(DICTIONARY.length)), payload)
    else if (this.#waiting.length) this.#waiting.push([topic, payload, retained])
    else this.#read(topic, payload, retained)
    if (this.#waiting.length > MAX_WAITING) this.#refuse()
  }

  /** Give up what waits for a dictionary that does not come. */
  expire(now = Date.now()) {
    if (this.#waiting.length && now - this.#since >= PATIENCE) this.#refuse()
  }

  #dictionary(id, content) {
    if (!isDictionary(id, content)) return
    this.#dictionaries.set(id, content)
    this.#resume()
  }

  #refuse() {
    const [topic, , retained] = this.#waiting.shift()
    this.#deliver(topic, null, retained)
    this.#resume()
  }

  #resume() {
    const messages = this.#waiting
    this.#waiting = []
    for (const message of messages) {
      if (this.#waiting.length) this.#waiting.push(message)
      else this.#read(...message)
    }
  }

  /** Deliver a message, or have it wait. */
  #read(topic, payload, retained) {
    if (!isFrame(payload)) {
      this.#deliver(topic, payload.toString(), retained)
      return
    }
    let text = null
    try {
      const { id, size } = header(payload)
      const dictionary = this.#dictionaries.get(id)
      if (id && !dictionary) {
        this.#waiting.push([topic, payload, retained])
        this.#since = Date.now()
        this.#missing(id)
        return
      }
      const content = id ? decompressUsingDict(context, payload, dictionary) : decompress(payload)
      if (content.length === size) text = Buffer.from(content).toString()
    } catch {
      // it is no whole frame
    }
    this.#deliver(topic, text, retained)
  }
}
