// A connection on a thread of its own that can be made to stand still; slow.js says why.

let socket = null;
let lock = null;

self.onmessage = ({ data }) => {
  if (data.open) open(data.open);
  if (data.sleep) sleep(data.sleep);
};

function open({ url, rooms, lock: shared }) {
  lock = shared;
  let client = null;
  let left = rooms.length;
  socket = new WebSocket(url);
  socket.onopen = () => {
    const joins = rooms.map((room) => ({ type: "join", id: room, room, state: { slow: true } }));
    socket.send(JSON.stringify(joins));
  };
  socket.onmessage = ({ data }) => {
    if (left === 0) return;
    const message = JSON.parse(data);
    if (message.type === "connected") client = message.client;
    if (message.type === "ok") left -= 1;
    if (left === 0) self.postMessage({ client });
  };
  socket.onclose = ({ code, reason }) => self.postMessage({ closed: { code, reason } });
}

/** Until it is woken, or for `ms` at most. */
function sleep(ms) {
  if (lock) return void Atomics.wait(lock, 0, 0, ms);
  const end = performance.now() + ms;
  while (performance.now() < end);
}
