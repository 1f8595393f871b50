// A copy of one vessel's tables, by docs/protocol.md. No I/O: messages go in, and what the copy knows comes out.
import { createHash } from 'node:crypto'

const HISTORY = 50_000
const LEAP = 100_000
const DIGESTS = 10_000
const FEW_PART = 10 // of a vessel's rows this part is swept without a digest, until the copy is proved equal
const CLAIM = 30_000 // for so long it holds on to what is proved and the vessel does not have
const MASK = (1n << 64n) - 1n

const sha256 = (text) => createHash('sha256').update(text).digest()

/** RFC 8785: JSON.stringify writes texts and numbers as it wants them; keys are to be sorted. */
export function canonical(value) {
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  const pairs = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`)
  return `{${pairs.join(',')}}`
}

export const rowHash = (data) => sha256(canonical(data)).toString('hex')
export const rowToken = (id, version, hash) => sha256(`${id}\n${version}\n${hash}`).readBigUInt64BE()
export const bucketOf = (id) => sha256(id)[0] >> 2
export const chain = (digest, { entity, data, version, operation }) =>
  sha256(`${digest}${entity}/${data.id}/${version}/${operation}`).toString('hex')

/** The digest of a set of rows; `toggle` puts one in, or takes it out. */
export class SetDigest {
  constructor(buckets = Array(64).fill(0n), count = 0) {
    this.sums = buckets
    this.count = count
  }

  toggle(bucket, tokens, count) {
    this.sums[bucket] = (this.sums[bucket] ^ tokens) & MASK
    this.count += count
  }

  copy() {
    return new SetDigest([...this.sums], this.count)
  }

  get buckets() {
    return this.sums.map((sum) => sum.toString(16).padStart(16, '0'))
  }

  get digest() {
    return sha256(this.buckets.join('')).toString('hex')
  }
}

/** What of the protocol is kept for one topic. */
const newTopic = (entity) => ({
  entity,
  position: 0,
  proven: 0, // by a catch-up that was asked for, or an audit
  ahead: [], // [from, to]
  doubted: false, // the vessel is to be asked how far it has come
  disbelieved: 0, // the highest number that was believed before
  unread: false, // a message has come since the last that could be read: it is refused, and no gap
  asked: [], // [requestId, what was known then, buckets], newest last
  whole: false,
  head: 0, // as last told by a status with nothing pending
  headAt: 0, // … when its seq was this
  run: null,
  sweep: null, // {mark, highSeq, buckets}: waits for a digest
  swept: 0, // rows without a digest since the copy was last proved equal
  rows: new Map(), // id: {version, deleted, hash, seq, epoch, mark, data}
})

export class Copy {
  /** @param topics {topic: entity} of what is followed */
  constructor(vesselId, topics, saved = null) {
    this.vesselId = vesselId
    this.state = saved ? revive(saved) : { epoch: null, left: [], online: false, seq: 0, topics: {}, refused: 0 }
    for (const [topic, entity] of Object.entries(topics)) this.state.topics[topic] ??= newTopic(entity)
    this.pausedUntil = 0 // by its data budget, as told by the last status
    this.digests = {}
    this.history = {} // of each topic: [seq, bucket, tokens, count], oldest first
    this.floor = {} // history reaches back to here
    this.heard = 0 // messages of catch-ups
    this.ended = new Set() // requests whose catch-up has ended
    this.described = null // the vessel's last digest
    this.claimed = false // the watermark is to be published again: the vessel has less than is proved
    this.claimedSince = 0
    for (const [topic, t] of Object.entries(this.state.topics)) {
      const digest = (this.digests[topic] = new SetDigest())
      this.history[topic] = []
      this.floor[topic] = t.position
      for (const [id, row] of t.rows) {
        if (!row.deleted) digest.toggle(bucketOf(id), rowToken(id, row.version, row.hash), 1)
      }
    }
  }

  /** Note that a catch-up was asked for: its answer, and no other, proves something. */
  asked(topics, requestId, buckets = null) {
    for (const topic of topics) {
      const t = this.state.topics[topic]
      t.asked = [...t.asked, [requestId, Math.max(highest(t), t.disbelieved), buckets]].slice(-8)
    }
  }

  /** Take a message; the topic is the one below the prefix. */
  take(topic, payload, retained = false) {
    let message
    try {
      message = JSON.parse(payload)
      if (message?.vesselId !== this.vesselId) return
      if (topic === 'system/status') this.#status(message, retained)
      else if (topic === 'system/digest') this.#digest(message, retained)
      else if (topic.startsWith('catchup/')) this.#catchup(topic.slice(8), message)
      else if (topic in this.state.topics) this.#change(topic, message, retained)
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof TypeError || error instanceof RangeError)) throw error
      this.state.refused += 1
    }
  }

  /** A message of which nothing can be read: refused. */
  unreadable(topic, retained = false) {
    this.state.refused += 1
    if (topic in this.state.topics && !retained) this.state.topics[topic].unread = true
  }

  // -- changes ----------------------------------------------------------------------------------

  #change(topic, m, retained) {
    const { state } = this
    const t = state.topics[topic]
    if (m.type !== 'data_change') return
    check(m, t.entity)
    if (m.epoch !== state.epoch) return
    if (m.seq <= t.position) {
      if (retained || m.seq <= t.proven || m.version <= (t.rows.get(m.data.id)?.version ?? 0)) return
      this.#retract(topic) // it has not come before: the position was a lie
    }
    if (m.seq > LEAP + Math.max(state.seq, ...Object.values(state.topics).map(highest))) {
      t.doubted = true // the vessel is to say itself how far it has come
      return
    }
    const newer = this.#apply(topic, m)
    if (t.unread && t.whole && !t.ahead.length) t.position = Math.max(t.position, m.previousSeq)
    t.unread = false
    if (m.previousSeq <= t.position) {
      t.position = m.seq
      if (!newer || t.ahead.length) this.#forgetHistory(topic, m.seq)
      this.#absorb(topic)
      return
    }
    const run = t.ahead.find(([, to]) => to === m.previousSeq)
    if (run) run[1] = m.seq
    else if (!t.ahead.some(([from, to]) => from < m.seq && m.seq <= to)) t.ahead.push([m.previousSeq, m.seq])
  }

  /** Go back to what was proved. */
  #retract(topic) {
    const t = this.state.topics[topic]
    t.disbelieved = highest(t)
    t.position = t.proven
    t.ahead = []
    t.doubted = true
    this.#forgetHistory(topic, t.position)
  }

  #absorb(topic) {
    const t = this.state.topics[topic]
    t.ahead.sort((a, b) => a[0] - b[0])
    let jumped = false
    while (t.ahead.length && t.ahead[0][0] <= t.position) {
      t.position = Math.max(t.position, t.ahead.shift()[1])
      jumped = true
    }
    if (jumped) this.#forgetHistory(topic, t.position)
  }

  /** Returns whether it was newer. `same`: also where only the content differs. */
  #apply(topic, m, same = false) {
    const { epoch, topics } = this.state
    const { rows } = topics[topic]
    const id = m.data.id
    const known = rows.get(id)
    const deleted = m.operation === 'delete'
    const hash = deleted ? '' : rowHash(m.data)
    if (known && known.epoch === epoch) {
      if (m.version < known.version && !(same && !deleted && known.seq <= m.seq)) return false
      if (m.version === known.version && !(same && !deleted && !known.deleted && known.hash !== hash)) return false
    }
    const row = { version: m.version, deleted, hash, seq: m.seq, epoch, mark: known?.mark ?? null, data: deleted ? null : m.data }
    rows.set(id, row)
    this.#replace(topic, id, known, row)
    return true
  }

  #replace(topic, id, before, after) {
    const bucket = bucketOf(id)
    let tokens = 0n
    let count = 0
    for (const [row, sign] of [[before, -1], [after, 1]]) {
      if (!row || row.deleted) continue
      tokens ^= rowToken(id, row.version, row.hash)
      count += sign
    }
    this.digests[topic].toggle(bucket, tokens, count)
    const history = this.history[topic]
    history.push([after.seq, bucket, tokens, count])
    if (history.length > 2 * HISTORY) {
      this.floor[topic] = Math.max(this.floor[topic], history[HISTORY - 1][0])
      history.splice(0, HISTORY)
    }
  }

  #forgetHistory(topic, seq) {
    this.floor[topic] = Math.max(this.floor[topic], seq)
    this.history[topic] = this.history[topic].filter(([at]) => at > seq)
  }

  // -- catch-ups --------------------------------------------------------------------------------

  #catchup(topic, m) {
    const { state } = this
    const t = state.topics[topic]
    if (!t || m.entity !== t.entity) return
    const asked = t.asked.find(([id]) => id === m.requestId)
    if (m.epoch !== state.epoch) {
      if (m.type !== 'catchup_begin' || !asked || !state.left.includes(m.epoch)) return
      this.#beginEpoch(m.epoch) // which has the rest of this answer count for nothing, and asks anew
      return
    }
    this.heard += 1
    if (m.type === 'catchup_begin') {
      if (!asked) return // somebody else's
      if (JSON.stringify(m.buckets ?? null) !== JSON.stringify(asked[2])) return
      if (m.highSeq < asked[1] && this.#claims(m.highSeq)) {
        this.ended.add(m.requestId)
        return
      }
      this.#begun(topic, t, m, asked)
      if (m.mode === 'snapshot') t.sweep = null
      t.run = { ...m, next: 0, digests: { 0: '' }, broken: !['log', 'snapshot', 'must_refetch'].includes(m.mode) }
    } else if (t.run?.catchupId !== m.catchupId) {
      if (m.type === 'catchup_end') this.ended.add(m.requestId) // its begin was missed
    } else if (m.type === 'catchup') {
      check(m, t.entity)
      this.#item(topic, t, m)
    } else if (m.type === 'catchup_end') {
      this.#end(topic, t, m)
    }
  }

  /** Whether to hold on to what is proved and above the vessel's head: it was restored, and begins an epoch. */
  #claims(head) {
    const proven = Math.max(...Object.values(this.state.topics).map((t) => t.proven))
    if (this.watermark <= head || proven <= head) {
      this.claimedSince = 0
      return false
    }
    this.claimed = true
    this.claimedSince ||= Date.now()
    return Date.now() - this.claimedSince < CLAIM
  }

  /** The answer is younger than the question: what was known above its head was never given out. */
  #begun(topic, t, m, asked) {
    this.state.seq = m.highSeq
    t.doubted = false
    t.disbelieved = 0
    if (m.highSeq >= asked[1]) return
    asked[1] = m.highSeq
    if (t.proven > m.highSeq) t.proven = 0
    t.ahead = []
    t.head = Math.min(t.head, m.highSeq)
    t.headAt = Math.min(t.headAt, m.highSeq)
    if (t.position > m.highSeq) this.#retract(topic)
    for (const row of t.rows.values()) row.seq = Math.min(row.seq, m.highSeq)
    this.history[topic] = []
    this.floor[topic] = m.highSeq
  }

  #item(topic, t, m) {
    const { run } = t
    if (m.sequence > run.next || run.digests[m.sequence] === undefined) run.broken = true
    if (run.mode === 'must_refetch') return
    if (!run.broken) {
      run.digests[m.sequence + 1] = chain(run.digests[m.sequence], m)
      delete run.digests[m.sequence - DIGESTS]
      run.next = m.sequence + 1
    }
    if (run.mode === 'snapshot') {
      this.#apply(topic, m, true)
      t.rows.get(m.data.id).mark = run.catchupId
    } else if (m.seq > t.position && m.seq <= run.highSeq) {
      this.#apply(topic, m)
    }
  }

  #end(topic, t, m) {
    const { run } = t
    const { epoch } = this.state
    t.run = null
    this.ended.add(m.requestId)
    if (run.broken || run.next !== m.total || run.digests[run.next] !== m.digest) return
    if (run.mode === 'must_refetch') t.whole = false
    if (m.next !== null || run.mode === 'must_refetch') return
    if (run.mode === 'log' && run.sinceSeq !== null && run.sinceSeq <= t.position) {
      t.position = Math.max(t.position, run.highSeq)
      t.proven = Math.max(t.proven, run.highSeq)
    }
    if (run.mode === 'snapshot' && run.complete) {
      t.sweep = { mark: run.catchupId, highSeq: m.highSeq, buckets: run.buckets ?? null }
      const gone = this.#unseen(t)
      const there = [...t.rows.values()].filter((row) => !row.deleted).length
      if (!gone.length || gone.length + t.swept <= there / FEW_PART) {
        t.swept += gone.length
        this.#sweep(topic, gone)
        t.sweep = null
      }
      if (!run.buckets) {
        t.position = Math.max(t.position, run.highSeq)
        t.proven = Math.max(t.proven, run.highSeq)
        t.whole = true
      }
    }
    this.#absorb(topic)
    this.#forgetHistory(topic, t.position)
    this.lastEnd = true
  }

  /** The rows that wait for a sweep. */
  #unseen(t) {
    const { mark, highSeq, buckets } = t.sweep
    return [...t.rows].filter(
      ([id, row]) =>
        !row.deleted &&
        row.mark !== mark &&
        !(row.epoch === this.state.epoch && row.seq > highSeq) &&
        (!buckets || buckets.includes(bucketOf(id))),
    )
  }

  #sweep(topic, gone) {
    const t = this.state.topics[topic]
    for (const [id, row] of gone) {
      const after = { ...row, deleted: true, hash: '', data: null, seq: t.sweep.highSeq, epoch: this.state.epoch }
      t.rows.set(id, after)
      this.#replace(topic, id, row, after)
    }
  }

  /** A digest of the vessel: what waits is swept where it agrees with what would be left. */
  #agree(topic, t, theirs, seq) {
    if (t.run || t.ahead.length || t.position < theirs.lastSeq || seq < t.sweep.highSeq || this.floor[topic] > seq) return
    const then = this.#at(topic, seq)
    const before = then.buckets
    const gone = this.#unseen(t)
    for (const [id, row] of gone) then.toggle(bucketOf(id), rowToken(id, row.version, row.hash), -1)
    const after = then.buckets
    const of = (sums) => gone.filter(([id]) => sums[bucketOf(id)] === theirs.buckets[bucketOf(id)])
    this.#sweep(topic, of(after))
    const stay = new Set(of(before).map(([id]) => bucketOf(id)))
    const rest = new Set(this.#unseen(t).map(([id]) => bucketOf(id)).filter((number) => !stay.has(number)))
    t.sweep = rest.size ? { ...t.sweep, buckets: [...rest] } : null
  }

  /** The digest of a topic's rows as they were at a number. */
  #at(topic, seq) {
    const then = this.digests[topic].copy()
    for (const [at, bucket, tokens, count] of this.history[topic]) {
      if (at > seq) then.toggle(bucket, tokens, -count)
    }
    return then
  }

  /** Whether rows wait for a digest. */
  get sweeping() {
    return Object.values(this.state.topics).some((t) => t.sweep)
  }

  // -- status -----------------------------------------------------------------------------------

  #status(s, retained) {
    const { state } = this
    if (typeof s.epoch !== 'string') return
    if (state.left.includes(s.epoch)) {
      // it may be an old one: the answer to a request says where the vessel is
      if (s.status === 'online' && !retained) Object.values(state.topics)[0].doubted = true
      return
    }
    if (s.epoch !== state.epoch && state.epoch && s.status !== 'online') return
    state.online = s.status === 'online'
    // believed for 26 hours at most; what is no time is NaN, and no pause
    if (state.online) this.pausedUntil = Math.min(s.pausedUntil ? Date.parse(s.pausedUntil) : 0, Date.now() + 26 * 3_600_000)
    if (s.epoch !== state.epoch) this.#beginEpoch(s.epoch)
    if (state.online && !retained) {
      state.seq = s.seq
      if (s.epoch === state.epoch) this.#claims(s.seq)
      for (const t of Object.values(state.topics)) {
        t.doubted ||= highest(t) > s.seq
        // what was told before, and is above what is told now, is not so
        if (t.headAt > s.seq) Object.assign(t, { head: 0, headAt: 0 })
      }
    }
    if (s.pending !== 0 || !s.topics) return
    state.seq = Math.max(state.seq, s.seq)
    for (const [topic, t] of Object.entries(state.topics)) this.#head(t, s.topics[topic] ?? 0, s.seq)
  }

  #head(t, head, seq) {
    if (seq < t.headAt) return
    t.head = Math.max(t.head, head)
    t.headAt = seq
  }

  #beginEpoch(epoch) {
    const { state } = this
    state.left = state.left.filter((left) => left !== epoch)
    if (state.epoch) state.left.push(state.epoch)
    this.claimedSince = 0
    state.epoch = epoch
    state.seq = 0
    for (const [topic, t] of Object.entries(state.topics)) {
      for (const [id, row] of t.rows) if (row.deleted) t.rows.delete(id)
      Object.assign(t, { position: 0, proven: 0, ahead: [], asked: [], doubted: false, disbelieved: 0, whole: false, head: 0, headAt: 0, run: null, sweep: null })
      this.history[topic] = []
      this.floor[topic] = 0
    }
    this.described = null // the vessel's last digest
  }

  /** What is missing: {topic: null (everything) or the position to go on from}. */
  get missing() {
    const found = {}
    for (const [topic, t] of Object.entries(this.state.topics)) {
      if (!t.whole) found[topic] = null
      else if (t.ahead.length || t.doubted || t.position < t.head) found[topic] = t.position
    }
    return found
  }

  /** Everything up to here is applied, over all topics. */
  get watermark() {
    const topics = Object.values(this.state.topics)
    if (!this.state.epoch || topics.some((t) => !t.whole)) return 0
    return Math.min(...topics.map((t) => (t.position >= t.head ? Math.max(t.position, t.headAt) : t.position)))
  }

  // -- proof of equality ------------------------------------------------------------------------

  #digest(d, retained) {
    if (d.epoch !== this.state.epoch) return
    for (const entity of Object.values(d.entities)) {
      const t = this.state.topics[entity.topic]
      if (!t) continue
      this.#head(t, entity.lastSeq, d.seq)
      if (t.sweep && !retained) this.#agree(entity.topic, t, entity, d.seq)
    }
    this.described = d
    this.describedAt = Date.now()
    this.knownThen = Math.max(...Object.values(this.state.topics).map(highest))
  }

  /**
   * Compare with the vessel's last digest: null while that can't be done yet, "stale" where it never can,
   * else {seq, equal, entities}.
   */
  compare() {
    const d = this.described
    if (!d || d.epoch !== this.state.epoch) return null
    // What is above the digest is taken back: that it was given out has to be the vessel's own word.
    const told = Math.max(d.seq, this.state.seq)
    const topics = Object.values(this.state.topics)
    if (Math.min(this.knownThen, Math.max(...topics.map(highest))) > told) {
      // while changes flow another digest or a status soon says so; else the vessel is asked
      if (Date.now() - this.describedAt > 5000) for (const t of topics) t.doubted ||= highest(t) > told
      return null
    }
    const entities = {}
    for (const [entity, theirs] of Object.entries(d.entities)) {
      const t = this.state.topics[theirs.topic]
      if (!t) continue
      if (!t.whole || t.run || t.position < theirs.lastSeq) return null
      if (this.floor[theirs.topic] > d.seq) return 'stale'
      const then = this.#at(theirs.topic, d.seq)
      const equal = then.digest === theirs.digest && then.count === theirs.count
      const buckets = then.buckets.flatMap((sum, number) => (sum === theirs.buckets[number] ? [] : [number]))
      entities[entity] = equal ? { equal } : { equal, buckets, rows: [] }
    }
    const equal = Object.values(entities).every((one) => one.equal)
    for (const t of equal ? Object.values(this.state.topics) : []) {
      t.proven = Math.max(t.proven, Math.min(d.seq, t.position))
      t.swept = 0
    }
    return { seq: d.seq, equal, entities }
  }

  /** The rows: {entity: {id: data}}. */
  get rows() {
    return Object.fromEntries(
      Object.values(this.state.topics).map((t) => [
        t.entity,
        Object.fromEntries([...t.rows].filter(([, row]) => !row.deleted).map(([id, row]) => [id, row.data])),
      ]),
    )
  }
}

/** The highest number that is taken for applied. */
const highest = (t) => Math.max(t.position, t.headAt, ...t.ahead.map(([, to]) => to))

/** The state as JSON. */
export const serialise = (state) => JSON.stringify(state, (_, value) => (value instanceof Map ? [...value] : value))

function revive(saved) {
  const state = JSON.parse(saved)
  for (const t of Object.values(state.topics)) t.rows = new Map(t.rows)
  return state
}

function check(m, entity) {
  const whole = (value, least) => Number.isSafeInteger(value) && value >= least
  if (
    m.entity !== entity ||
    !['create', 'update', 'delete'].includes(m.operation) ||
    typeof m.data !== 'object' ||
    typeof m.data?.id !== 'string' ||
    !whole(m.seq, 0) ||
    !whole(m.previousSeq, 0) ||
    !whole(m.version, 1)
  ) {
    throw new TypeError('malformed')
  }
}
