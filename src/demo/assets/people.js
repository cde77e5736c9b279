// Who is here: friendly names, a colour for each, and the list of a room's members.

const ADJECTIVES = [
  "Calm", "Brisk", "Quiet", "Sunny", "Misty", "Salty", "Swift", "Merry", "Lucky", "Gentle",
  "Bold", "Drowsy", "Silver", "Amber", "Coral", "Humble", "Nimble", "Windy", "Distant", "Early",
];
const ANIMALS = [
  "Otter", "Heron", "Seal", "Puffin", "Tern", "Crab", "Whale", "Gull", "Eel", "Pike",
  "Plover", "Squid", "Limpet", "Curlew", "Urchin", "Dolphin", "Oyster", "Egret", "Newt", "Perch",
];
/** Characters of a name. The gateway takes 128 bytes, four for each at most. */
export const NAME_LENGTH_MAX = 32;
const SHOWN_MAX = 24;
const HUES = 16;

const any = (list) => list[Math.floor(Math.random() * list.length)];

export const randomName = () => `${any(ADJECTIVES)} ${any(ANIMALS)}`;

/** What may be a name: no control characters, spaces in a row are one; empty if nothing is left. */
export function cleanName(text) {
  const plain = String(text).replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, "").replace(/\s+/g, " ").trim();
  return [...plain].filter((char) => !/^[\ud800-\udfff]$/.test(char)).slice(0, NAME_LENGTH_MAX).join("");
}

/** The hue of a name, the same on every screen. Style sheets make a colour of it that can be read. */
export function hueOf(name) {
  let hash = 2166136261;
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 16777619);
  return (((hash >>> 0) % HUES) * 360) / HUES;
}

/** What to call a member or a sender: who has no user is known by the connection. */
export const nameOf = ({ user, client }) => user ?? `client ${String(client).slice(0, 6)}`;

/** The members of one room, by connection. */
export class People extends EventTarget {
  #members = new Map();
  #count = 0;
  #list;
  #counter;

  constructor(list, counter) {
    super();
    this.#list = list;
    this.#counter = counter;
  }

  get count() {
    return this.#count;
  }

  has(client) {
    return this.#members.has(client);
  }

  /** The list of a moment, and who of it is this page. */
  replace(users, count, self) {
    this.#members = new Map(users.map((one) => [one.client, { ...one, isSelf: one.client === self }]));
    this.#count = count;
    this.#show();
  }

  joined({ client, user, members }) {
    this.#members.set(client, { client, user });
    this.#count = members;
    this.#show();
  }

  left({ client, members }) {
    this.#members.delete(client);
    this.#count = members;
    this.#show();
  }

  /** What a member is doing, shown beside its name. */
  mark(client, mark, isOn) {
    const member = this.#members.get(client);
    if (!member || Boolean(member[mark]) === isOn) return;
    member[mark] = isOn;
    this.#show();
  }

  #show() {
    const members = [...this.#members.values()];
    members.sort((a, b) => Boolean(b.isSelf) - Boolean(a.isSelf) || (a.since ?? 0) - (b.since ?? 0));
    const items = members.slice(0, SHOWN_MAX).map(chip);
    const more = this.#count - items.length;
    if (more > 0) {
      const item = document.createElement("li");
      item.className = "more";
      item.textContent = `+${more}`;
      items.push(item);
    }
    this.#list.replaceChildren(...items);
    this.#counter.textContent = String(this.#count);
  }
}

function chip(member) {
  const item = document.createElement("li");
  const name = nameOf(member);
  item.className = "person";
  item.style.setProperty("--hue", hueOf(name));
  item.dataset.client = member.client;
  item.classList.toggle("is-away", Boolean(member.state?.away || member.away));
  item.classList.toggle("is-typing", Boolean(member.typing));
  const text = document.createElement("bdi");
  text.className = "name";
  text.textContent = name;
  item.append(text);
  if (member.isSelf) {
    const you = document.createElement("span");
    you.className = "you";
    you.textContent = "you";
    item.append(you);
  }
  return item;
}
