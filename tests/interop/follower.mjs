// A follower of one vessel over mqtt.js, written from docs/protocol.md alone.
//
//   node follower.mjs --url mqtt://localhost:1883 --vessel ship-1 --name shore --store DIRECTORY
//   node follower.mjs --store DIRECTORY --vessel ship-1 --dump     prints its rows
//   node follower.mjs --vectors docs/protocol.md                   checks the document's test vectors
//
// Its store is a journal of the messages that it has taken, on the disk before they are acknowledged; its state is what
// comes out when they are taken again. Prints what happens, one JSON object a line.
import { randomUUID } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import mqtt from 'mqtt'
import { Frames, isDictionary } from './frames.mjs'
import { Copy, SetDigest, bucketOf, canonical, chain, rowHash, rowToken, serialise } from './copy.mjs'

const TOPICS = {
  work_orders: 'work_orders',
  alerts: 'alerts',
  equipment: 'equipment',
  crew: 'crew',
  maintenance: 'maintenance_schedules',
}

/** A vessel has at most 16; others may be invented. */
const MAX_DICTIONARIES = 24

/** Marks in the journal what was asked: no topic has a name like it. */
const ASKED = '#'

const { values: given } = parseArgs({
  options: {
    url: { type: 'string', default: 'mqtt://localhost:1883' },
    prefix: { type: 'string', default: 'vessel/sync' },
    vessel: { type: 'string', default: '' },
    name: { type: 'string', default: 'interop' },
    store: { type: 'string', default: '' },
    grace: { type: 'string', default: '5' }, // seconds in which what a status tells of may still come
    patience: { type: 'string', default: '10' }, // seconds without an answer before a request goes again
    audit: { type: 'string', default: '0' }, // seconds between two requests for a digest; 0: never
    dump: { type: 'boolean', default: false },
    vectors: { type: 'string', default: '' },
  },
})

/** The vessel's own prefix. */
const prefix = given.prefix.split('/').map((level) => (level === '{vessel_id}' ? given.vessel : level)).join('/')

const say = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`)

/** The journal, and the state of all journals before it. */
class Store {
  #generation = 0
  #journal = null

  constructor(directory) {
    this.directory = directory
    fs.mkdirSync(directory, { recursive: true })
  }

  #path = (name) => path.join(this.directory, name)

  /** The copy, and what takes payloads for it. */
  load(vesselId, missing) {
    let saved = null
    if (fs.existsSync(this.#path('state.json'))) {
      const file = JSON.parse(fs.readFileSync(this.#path('state.json'), 'utf8'))
      this.#generation = file.generation
      saved = file.state
    }
    const copy = new Copy(vesselId, TOPICS, saved)
    const frames = new Frames((topic, text, retained) => {
      if (text === null) copy.unreadable(topic, retained)
      else copy.take(topic, text, retained)
    }, missing)
    // The dictionaries of journals that are gone.
    for (const name of fs.readdirSync(this.directory)) {
      const id = /^dictionary\.(\d+)$/.exec(name)?.[1]
      if (id) frames.take(`system/dictionary/${id}`, fs.readFileSync(this.#path(name)), true)
    }
    const journal = this.#path(`journal.${this.#generation}`)
    if (fs.existsSync(journal)) {
      const lines = fs.readFileSync(journal, 'utf8').split('\n')
      lines.pop() // what comes after the last line feed was cut off in the middle, and never acknowledged
      for (const line of lines) {
        const [topic, payload, retained] = JSON.parse(line)
        if (topic === ASKED) copy.asked(...payload)
        else frames.take(topic, Buffer.from(payload, 'base64'), retained)
      }
    }
    return { copy, frames }
  }

  /** Begin a new journal on top of the present state. */
  open(copy, waiting) {
    const old = this.#path(`journal.${this.#generation}`)
    this.#generation += 1
    this.#journal = fs.openSync(this.#path(`journal.${this.#generation}`), 'w')
    const text = JSON.stringify({ generation: this.#generation, state: serialise(copy.state) })
    const fresh = fs.openSync(this.#path('state.new'), 'w')
    fs.writeSync(fresh, text)
    fs.fsyncSync(fresh)
    fs.closeSync(fresh)
    fs.renameSync(this.#path('state.new'), this.#path('state.json'))
    for (const [topic, payload, retained] of waiting) this.commit(topic, payload.toString('base64'), retained)
    fs.rmSync(old, { force: true })
  }

  /** Keep a dictionary: messages in later journals may need it. */
  keep(id, content) {
    const kept = fs.readdirSync(this.directory).filter((name) => name.startsWith('dictionary.'))
    if (kept.length < MAX_DICTIONARIES) fs.writeFileSync(this.#path(`dictionary.${Number(id)}`), content, { flush: true })
  }

  commit(topic, payload, retained = false) {
    fs.writeSync(this.#journal, `${JSON.stringify([topic, payload, retained])}\n`)
    fs.fdatasyncSync(this.#journal)
  }
}

class Follower {
  #copy
  #frames
  #store
  #client
  #asked = {} // of each topic: {requestId, at, patience, heard}
  #missingSince = {}
  #told = { seq: -1, at: 0, audit: null }
  #audit = null
  #compared = null // the digest whose comparison was told
  #digestAsked = 0
  #describedBefore // what was there then: a new one is the answer
  #fresh = true // a digest that comes now was asked for after the last catch-up

  constructor() {
    this.#store = new Store(given.store)
    const { copy, frames } = this.#store.load(given.vessel, (id) => this.#missingDictionary(id))
    this.#copy = copy
    this.#frames = frames
    this.#store.open(this.#copy, frames.waiting)
    this.#client = mqtt.connect(given.url, {
      clientId: `interop_${given.name}`,
      clean: false,
      protocolVersion: 5,
      reconnectPeriod: 500,
      properties: { sessionExpiryInterval: 4294967295 },
    })
    // mqtt.js acknowledges when the callback is called, and hands over no other message before
    this.#client.handleMessage = (packet, done) => {
      const topic = packet.topic.slice(prefix.length + 1)
      const id = /^system\/dictionary\/(\d{1,10})$/.exec(topic)?.[1]
      if (id && isDictionary(Number(id), packet.payload)) this.#store.keep(id, packet.payload)
      this.#store.commit(topic, packet.payload.toString('base64'), packet.retain)
      this.#frames.take(topic, packet.payload, packet.retain)
      done()
    }
    this.#client.on('connect', ({ sessionPresent }) => {
      const topics = ['system/dictionary/+', ...Object.keys(TOPICS), 'catchup/+', 'system/status', 'system/digest']
      this.#client.subscribe(topics.map((topic) => `${prefix}/${topic}`), { qos: 1 }, (error) => {
        say(error ? 'refused' : 'connected', { sessionPresent })
      })
    })
    this.#client.on('close', () => say('disconnected'))
    this.#client.on('error', (error) => say('error', { message: error.message }))
    this.#timer = setInterval(() => this.#tend(), 100)
    process.on('SIGTERM', () => this.#stop())
  }

  #timer

  #stop() {
    clearInterval(this.#timer)
    this.#client.end(false, {}, () => process.exit(0))
  }

  /** Subscribed to by its own name, it comes also from a broker that retains nothing for wildcards. */
  #missingDictionary(id) {
    say('dictionary', { id })
    this.#client?.subscribe(`${prefix}/system/dictionary/${id}`, { qos: 0 })
  }

  #publish(topic, message, retain = false) {
    this.#client.publish(`${prefix}/${topic}`, JSON.stringify(message), { qos: 1, retain })
  }

  #tend() {
    if (!this.#client.connected) return
    const now = Date.now()
    this.#frames.expire(now)
    this.#ask(now)
    this.#prove(now)
    this.#tell(now)
  }

  #ask(now) {
    const copy = this.#copy
    const { missing } = copy
    for (const topic of Object.keys(TOPICS)) {
      if (!(topic in missing)) {
        delete this.#missingSince[topic]
        delete this.#asked[topic]
        continue
      }
      this.#missingSince[topic] ??= now
      const asked = this.#asked[topic]
      if (!asked) continue
      const { heard } = copy
      if (heard !== asked.heard) Object.assign(asked, { heard, at: now })
      // it has ended and something is missing still, or nothing has come for long
      if (copy.ended.has(asked.requestId)) asked.over = true
      else if (Date.now() < copy.pausedUntil + 60_000 && copy.pausedUntil > 0) asked.at = now
      else if (now - asked.at > asked.patience) asked.over = true
    }
    if (!copy.state.epoch || !copy.state.online) return
    const due = Object.keys(missing).filter((topic) => {
      const asked = this.#asked[topic]
      if (asked && (!asked.over || now - asked.at < 1000)) return false
      const t = copy.state.topics[topic]
      return !t.whole || t.ahead.length || t.doubted || now - this.#missingSince[topic] > 1000 * Number(given.grace)
    })
    if (due.length > 1 && due.every((topic) => missing[topic] === null)) {
      this.#request('all', due, { mode: 'snapshot' }, now)
      return
    }
    for (const topic of due) {
      const since = missing[topic]
      const what = since === null ? { mode: 'snapshot' } : { sinceSeq: since, epoch: copy.state.epoch }
      this.#request(TOPICS[topic], [topic], what, now)
    }
  }

  #request(entity, topics, what, now) {
    const requestId = this.#askFor(entity, topics, what)
    for (const topic of topics) {
      const patience = Math.min(300_000, 2 * (this.#asked[topic]?.patience ?? 500 * Number(given.patience)))
      this.#asked[topic] = { requestId, at: now, patience, heard: this.#copy.heard }
    }
  }

  /** What was asked is in the journal before it is sent: the answer proves something to who has asked. */
  #askFor(entity, topics, what) {
    const requestId = randomUUID()
    const asked = [topics, requestId, what.buckets ?? null]
    this.#store.commit(ASKED, asked)
    this.#copy.asked(...asked)
    this.#publish('catchup_requests', { requestId, vesselId: given.vessel, entity, limit: null, ...what })
    say('asked', { entity, ...what })
    return requestId
  }

  #prove(now) {
    const copy = this.#copy
    if (copy.lastEnd) {
      copy.lastEnd = false
      this.#fresh = false
    }
    const complete = Object.keys(copy.missing).length === 0 && copy.state.epoch !== null
    const result = copy.described === this.#compared ? null : copy.compare()
    let again = result === 'stale'
    if (result) this.#compared = copy.described
    if (result && result !== 'stale') {
      if (result.equal || this.#fresh) {
        this.#audit = { ...result, timestamp: new Date().toISOString() }
        say('audit', result)
      } else {
        again = true // the copy was of no one number
      }
      if (!result.equal && this.#fresh) this.#repair(result)
    }
    const pause = again ? 500 : 1000 * (copy.sweeping ? 2 : Number(given.audit))
    if (complete && copy.state.online && (Number(given.audit) || copy.sweeping) && now - this.#digestAsked >= pause) {
      if (again || copy.described !== this.#describedBefore || now - this.#digestAsked > 20_000) {
        this.#digestAsked = now
        this.#describedBefore = copy.described
        this.#fresh = true
        this.#publish('catchup_requests', { requestId: randomUUID(), vesselId: given.vessel, entity: 'all', mode: 'digest' })
      }
    } else if (again) {
      this.#digestAsked = Math.min(this.#digestAsked, now - 1000 * Number(given.audit))
    }
  }

  #repair({ entities }) {
    for (const [entity, { equal, buckets }] of Object.entries(entities)) {
      if (equal) continue
      const topic = Object.keys(TOPICS).find((name) => TOPICS[name] === entity)
      this.#askFor(entity, [topic], { mode: 'snapshot', buckets })
    }
  }

  #tell(now) {
    const { watermark, state } = this.#copy
    const told = this.#told
    const news = watermark !== told.seq || told.audit !== this.#audit || this.#copy.claimed
    if (!watermark || !news || now - told.at < 2000) return
    this.#copy.claimed = false
    this.#told = { seq: watermark, at: now, audit: this.#audit }
    const timestamp = new Date().toISOString()
    const body = { epoch: state.epoch, seq: watermark, timestamp, vesselId: given.vessel, audit: this.#audit }
    this.#publish(`watermarks/${given.name}`, body, true)
    say('watermark', { seq: watermark })
  }
}

function checkVectors(page) {
  const vectors = JSON.parse(/^```json vectors\n(.*?)^```/ms.exec(fs.readFileSync(page, 'utf8'))[1])
  const wrong = []
  const same = (what, ours, theirs) => ours === theirs || wrong.push(`${what}: ${ours}, not ${theirs}`)
  const sets = {}
  for (const { entity, rowId, version, data, ...wanted } of vectors.rows) {
    same('canonical', canonical(data), wanted.canonical)
    same('row hash', rowHash(data), wanted.rowHash)
    const token = rowToken(rowId, version, rowHash(data))
    same('token', token.toString(16).padStart(16, '0'), wanted.token)
    same('bucket', bucketOf(rowId), wanted.bucket)
    sets[entity] ??= new SetDigest()
    sets[entity].toggle(bucketOf(rowId), token, 1)
  }
  same('empty entity', new SetDigest().digest, vectors.emptyEntity)
  for (const [entity, wanted] of Object.entries(vectors.entities)) {
    same(`digest of ${entity}`, sets[entity].digest, wanted.digest)
    same(`count of ${entity}`, sets[entity].count, wanted.count)
    for (const [number, sum] of Object.entries(wanted.buckets)) same('bucket', sets[entity].buckets[number], sum)
  }
  let digest = ''
  for (const { rowId, digest: wanted, ...item } of vectors.chain) {
    digest = chain(digest, { ...item, data: { id: rowId } })
    same('chain', digest, wanted)
  }
  say('vectors', { rows: vectors.rows.length, wrong })
  return wrong.length ? 1 : 0
}

if (given.vectors) {
  process.exitCode = checkVectors(given.vectors)
} else if (given.dump) {
  const { copy } = new Store(given.store).load(given.vessel)
  process.stdout.write(JSON.stringify({ rows: copy.rows, refused: copy.state.refused, epoch: copy.state.epoch }))
} else {
  new Follower()
}
