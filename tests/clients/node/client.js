// Drives the gateway with npm's `ws`, a client that knows nothing of it.
// Usage: node client.js ws://127.0.0.1:PORT [PREFIX]   (PREFIX: only checks whose names begin so)
"use strict";

const assert = require("node:assert/strict");
const WebSocket = require("ws");

const DEADLINE_MS = 20_000;
const MIB = 1024 * 1024;
const [base, prefix = ""] = process.argv.slice(2);

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A WebSocket whose messages, pongs and end can be awaited one after the other.
class Client {
  static async open(path, protocols, options) {
    const client = new Client(new WebSocket(base + path, protocols, options));
    await within(client.opened, `opening ${path}`);
    return client;
  }

  // As `user`, with `connected` already read.
  static async join(user, ...rooms) {
    const client = await Client.open(`/ws?user=${user}`);
    client.connected = await client.json();
    assert.equal(client.connected.type, "connected");
    for (const room of rooms) await client.ok({ type: "join", room });
    return client;
  }

  constructor(ws) {
    this.ws = ws;
    this.events = [];
    this.waiting = null;
    this.ids = 0;
    this.opened = new Promise((resolve, reject) => {
      ws.on("open", resolve);
      ws.on("unexpected-response", (_, response) => {
        response.resume();
        reject(new Error(`status ${response.statusCode}`));
      });
      ws.on("error", reject);
    });
    this.closed = new Promise((resolve) => {
      ws.on("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
    ws.on("message", (data, isBinary) => this.push({ data, isBinary }));
    ws.on("pong", (data) => this.push({ pong: data.toString() }));
    ws.on("close", (code) => this.push({ code }));
  }

  push(event) {
    if (this.waiting) this.waiting(event);
    else this.events.push(event);
    this.waiting = null;
  }

  next() {
    if (this.events.length > 0) return Promise.resolve(this.events.shift());
    return within(new Promise((resolve) => (this.waiting = resolve)), "an event");
  }

  async json() {
    const event = await this.next();
    assert.ok(event.data, `a message, not ${JSON.stringify(event)}`);
    assert.equal(event.isBinary, false);
    return JSON.parse(event.data.toString());
  }

  // Sends a command and reads its answer, which must come next.
  async call(command) {
    const id = `n${++this.ids}`;
    this.ws.send(JSON.stringify({ ...command, id }));
    const answer = await this.json();
    assert.equal(answer.id, id, JSON.stringify(answer));
    return answer;
  }

  async ok(command) {
    const answer = await this.call(command);
    assert.equal(answer.type, "ok", JSON.stringify(answer));
    return answer;
  }

  async end(code = 1000) {
    this.ws.close(code);
    return within(this.closed, "the end");
  }
}

async function echoes(payload, options) {
  const client = await Client.open("/echo");
  client.ws.send(payload, options);
  const { data, isBinary } = await client.next();
  assert.equal(isBinary, Buffer.isBuffer(payload));
  assert.ok(data.equals(Buffer.from(payload)), "came back changed");
  await client.end();
}

const checks = {
  "echo text": () => echoes("hello, wörld 🌊"),
  "echo binary": () => echoes(Buffer.from([0, 1, 127, 128, 255])),
  "echo empty": () => echoes(""),
  "echo 1 MiB of text": () => echoes("ü".repeat(MIB / 2)),
  "echo 1 MiB of binary": () => echoes(Buffer.alloc(MIB, 0xa5)),

  async "echo fragments"() {
    const client = await Client.open("/echo");
    for (let n = 0; n < 100; n++) client.ws.send(`${n},`, { fin: n === 99, binary: false });
    const { data } = await client.next();
    assert.equal(data.toString(), Array.from({ length: 100 }, (_, n) => `${n},`).join(""));
    await client.end();
  },

  async "echo many in order"() {
    const client = await Client.open("/echo");
    for (let n = 0; n < 500; n++) client.ws.send(`message ${n}`);
    for (let n = 0; n < 500; n++) assert.equal((await client.next()).data.toString(), `message ${n}`);
    await client.end();
  },

  async "echo ping and pong"() {
    const client = await Client.open("/echo");
    client.ws.ping("tide");
    assert.deepEqual(await client.next(), { pong: "tide" });
    await client.end();
  },

  async "echo close codes"() {
    for (const code of [1000, 3000, 4999]) {
      const client = await Client.open("/echo");
      assert.equal((await client.end(code)).code, code);
    }
  },

  async "close 1007 for text that is not UTF-8"() {
    const client = await Client.open("/echo");
    client.ws.send(Buffer.from([0x68, 0xff]), { binary: false });
    assert.equal((await within(client.closed, "the end")).code, 1007);
  },

  async "close 1009 for a message that is too big"() {
    const client = await Client.open("/echo");
    client.ws.on("error", () => {});
    client.ws.send(Buffer.alloc(2 * MIB + 1));
    assert.equal((await within(client.closed, "the end")).code, 1009);
  },

  async "subprotocol choice"() {
    const plain = await Client.open("/ws");
    assert.equal(plain.ws.protocol, "");
    const chosen = await Client.open("/ws", ["unknown.v9", "tidegate.v1.json"]);
    assert.equal(chosen.ws.protocol, "tidegate.v1.json");
    await assert.rejects(Client.open("/ws", ["unknown.v9"]), /status 400/);
    await plain.end();
    await chosen.end();
  },

  async "rooms join, publish, receive"() {
    const alice = await Client.join("alice", "node-talk");
    const bob = await Client.join("bob", "node-talk");
    assert.equal((await alice.json()).type, "user_joined");
    const data = { text: "hi", list: [1, 2.5, null] };
    alice.ws.send(JSON.stringify({ type: "publish", room: "node-talk", data }));
    for (const client of [alice, bob]) {
      const message = await client.json();
      assert.equal(message.type, "message");
      assert.equal(message.seq, 1);
      assert.deepEqual(message.data, data);
      assert.deepEqual(message.from, { client: alice.connected.client, user: "alice" });
    }
    await alice.end();
    await bob.end();
  },

  async "rooms presence"() {
    const alice = await Client.join("alice", "node-here");
    const bob = await Client.join("bob", "node-here");
    const joined = await alice.json();
    assert.deepEqual([joined.type, joined.user, joined.members], ["user_joined", "bob", 2]);
    const presence = await alice.ok({ type: "presence", room: "node-here" });
    assert.deepEqual(presence.members.map((member) => member.user).sort(), ["alice", "bob"]);
    await bob.end();
    const left = await alice.json();
    assert.deepEqual([left.type, left.user, left.members], ["user_left", "bob", 1]);
    await alice.end();
  },

  async "rooms bad JSON is an error, not an end"() {
    const alice = await Client.join("alice");
    alice.ws.send("{not json");
    const error = await alice.json();
    assert.deepEqual([error.type, error.code], ["error", "PARSE_ERROR"]);
    assert.equal((await alice.ok({ type: "echo", data: 7 })).data, 7);
    await alice.end();
  },

  async "rooms raw relays bytes"() {
    const one = await Client.open("/ws?room=node-raw", ["tidegate.v1.raw"]);
    const two = await Client.open("/ws/node-raw", ["tidegate.v1.raw"]);
    assert.equal(two.ws.protocol, "tidegate.v1.raw");
    one.ws.send("as it came");
    const text = await two.next();
    assert.deepEqual([text.data.toString(), text.isBinary], ["as it came", false]);
    two.ws.send(Buffer.from([9, 0, 255]));
    const bytes = await one.next();
    assert.deepEqual([[...bytes.data], bytes.isBinary], [[9, 0, 255], true]);
    await one.end();
    await two.end();
  },

  async "compression in every agreement"() {
    const offers = [
      [true, /^permessage-deflate; server_no_context_takeover; client_no_context_takeover$/],
      [{ serverMaxWindowBits: 10, clientMaxWindowBits: 9 }, /server_max_window_bits=10/],
      [{ serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 0 }, /^permessage-deflate; /],
      [false, null],
    ];
    const clients = [];
    for (const [perMessageDeflate, expected] of offers) {
      const client = new Client(new WebSocket(`${base}/ws?user=u`, { perMessageDeflate }));
      let answer = null;
      client.ws.on("upgrade", (response) => (answer = response.headers["sec-websocket-extensions"] ?? null));
      await within(client.opened, "opening");
      if (expected) assert.match(answer, expected);
      else assert.equal(answer, null);
      await client.json();
      await client.ok({ type: "join", room: "node-deflate" });
      clients.push(client);
    }
    const data = Array.from({ length: 300 }, (_, n) => ({ n, text: "ebb and flow, wörld" }));
    for (const client of clients) {
      client.ws.send(JSON.stringify({ type: "publish", room: "node-deflate", data }));
      for (const member of clients) {
        let message;
        do message = await member.json();
        while (message.type !== "message");
        assert.deepEqual(message.data, data);
      }
    }
    for (const client of clients) {
      assert.deepEqual((await client.ok({ type: "echo", data })).data, data);
    }
    for (const client of clients) await client.end();
  },

  async "compression stops at the limit"() {
    const client = await Client.open("/echo");
    client.ws.on("error", () => {});
    const compressed = await Client.open("/echo");
    compressed.ws.send("a".repeat(2 * MIB));
    assert.equal((await compressed.next()).data.length, 2 * MIB);
    client.ws.send("a".repeat(2 * MIB + 1));
    assert.equal((await within(client.closed, "the end")).code, 1009);
    await compressed.end();
  },

  async "rooms many clients see one order"() {
    const members = 20;
    const each = 20;
    const clients = [];
    for (let n = 0; n < members; n++) clients.push(await Client.join(`user-${n}`, "node-many"));
    for (let m = 0; m < each; m++) {
      for (const client of clients) {
        client.ws.send(JSON.stringify({ type: "publish", room: "node-many", data: m }));
      }
    }
    const streams = await Promise.all(
      clients.map(async (client) => {
        const stream = [];
        while (stream.length < members * each) {
          const message = await client.json();
          if (message.type === "message") stream.push(`${message.seq} ${message.from.client} ${message.data}`);
        }
        return stream;
      }),
    );
    streams[0].forEach((line, at) => assert.equal(Number(line.split(" ")[0]), at + 1));
    for (const stream of streams) assert.deepEqual(stream, streams[0]);
    await Promise.all(clients.map((client) => client.end()));
  },
};

async function main() {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    if (!name.startsWith(prefix)) continue;
    try {
      await check();
      console.log(`ok   ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error.stack}`);
    }
  }
  // A failed check may have left connections open.
  process.exit(failed === 0 ? 0 : 1);
}

main();
