"use strict";
// Drives the demo page in headless Chromium, with playwright-core. Prints `ok NAME` for each check;
// the first that fails ends it. Whoever started it reads `restart` from it, restarts the gateway
// at the same address, and answers with a line.
//
//   node demo.js http://127.0.0.1:PORT/ PROFILE_DIRECTORY

const assert = require("node:assert");
const { mkdirSync } = require("node:fs");
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const [base, directory] = process.argv.slice(2);
const EXECUTABLE = process.env.CHROMIUM ?? "/usr/bin/chromium";
const DEADLINE_MS = 20_000;
/** A refused connection while the gateway restarts is told by the browser itself. */
const REFUSED = /^WebSocket connection to .* failed/;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"];

const faults = [];
let mayBeRefused = false;
let browser;

async function check(name, run) {
  await run();
  assert.deepStrictEqual(faults, [], `${name}: what the browser complained of`);
  console.log(`ok ${name}`);
}

/** A visitor with a browser's profile of its own. */
async function visit(name, options = {}, room = "lobby") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(DEADLINE_MS);
  const page = await context.newPage();
  const here = new URL(base).host;
  const complain = (text) => {
    if (!(mayBeRefused && REFUSED.test(text))) faults.push(`${name}: ${text}`);
  };
  page.on("console", (line) => line.type() === "error" && complain(line.text()));
  page.on("pageerror", (error) => complain(String(error)));
  const only = (url) => new URL(url).host === here || complain(`asked for ${url}`);
  context.on("request", (request) => only(request.url()));
  page.on("websocket", (socket) => only(socket.url()));
  await page.addInitScript((own) => {
    addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.blockedURI}`));
    if (!localStorage.getItem("tidegate.name")) localStorage.setItem("tidegate.name", own);
  }, name);
  await page.goto(`${base}#${room}`);
  await online(page);
  return page;
}

const until = (page, test, argument) => page.waitForFunction(test, argument, { timeout: DEADLINE_MS });
const online = (page) => page.waitForSelector('body[data-state="online"]');
const says = (page, selector, text) =>
  until(page, ([at, wanted]) => document.querySelector(at)?.textContent.includes(wanted), [selector, text]);
const sees = (page, text) => says(page, "#log", text);
const hasMembers = (page, names) =>
  until(page, (all) => {
    const shown = [...document.querySelectorAll("#people .name")].map((one) => one.textContent);
    return shown.length === all.length && all.every((name) => shown.includes(name));
  }, names);
const phase = (page, name) => page.waitForSelector(`#slow-phase[data-phase="${name}"]`);

async function say(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

async function point(page, x, y) {
  const box = await page.locator("#pond").boundingBox();
  await page.mouse.move(box.x + box.width * x, box.y + box.height * y);
}

/** Waits until a pointer with this label stands at these shares of the pond. */
const pointsAt = (page, label, x, y) =>
  until(page, ([name, left, top]) => {
    const near = (value, wanted) => Math.abs(parseFloat(value) - wanted * 100) < 1.5;
    return [...document.querySelectorAll(".pointer")].some(
      (one) => one.textContent === name && near(one.style.left, left) && near(one.style.top, top),
    );
  }, [label, x, y]);

/** Tabs forward to the element with this id, and wants to see the focus at every stop. */
async function tabTo(page, id) {
  for (let n = 0; n < 40; n += 1) {
    await page.keyboard.press("Tab");
    const [at, outline] = await page.evaluate(() => [
      document.activeElement.id,
      getComputedStyle(document.activeElement).outlineStyle,
    ]);
    if (at !== "") assert.notStrictEqual(outline, "none", `the focus on ${at} can be seen`);
    if (at === id) return;
  }
  assert.fail(`${id} can't be reached by Tab`);
}

async function setNoise(page, perSecond) {
  await page.locator("#noise").fill(String(perSecond));
}

/** Contrast of every piece of text with what lies behind it (WCAG 2.2, 1.4.3), below 4.5. */
const faint = (page) =>
  page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      return [...context.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => {
      const linear = (one) => (one <= 10 ? one / 3294.6 : ((one / 255 + 0.055) / 1.055) ** 2.4);
      return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const behind = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const colour = rgba(getComputedStyle(one).backgroundColor);
        if (colour[3] === 255) return colour;
      }
      return rgba(getComputedStyle(document.body).backgroundColor);
    };
    const found = [];
    let looked = 0;
    for (const element of document.querySelectorAll("body *")) {
      const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
      const isField = element.matches("input[type=text]");
      if ((!hasText && !isField) || element.closest(".room-title, noscript, .unseen, .skip, [hidden]")) continue;
      const style = getComputedStyle(element);
      const [one, two] = [luminance(rgba(style.color)), luminance(behind(element))];
      const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
      looked += 1;
      if (ratio < 4.5) found.push(`${element.tagName}.${element.className}#${element.id} ${ratio.toFixed(2)}`);
    }
    return { found, looked };
  });

/** What a person who does not see the page would miss. */
const unlabelled = (page) =>
  page.evaluate(() => {
    const found = [];
    const named = (element) =>
      element.getAttribute("aria-label") ||
      (element.getAttribute("aria-labelledby") ?? "")
        .split(" ")
        .map((id) => document.getElementById(id)?.textContent ?? "")
        .join("")
        .trim() ||
      [...(element.labels ?? [])].map((label) => label.textContent).join("").trim() ||
      element.textContent.trim();
    const controls = "button, input, a[href], [role=switch], [role=application], [role=log], meter, section, [tabindex]";
    for (const element of document.querySelectorAll(controls)) {
      if (!named(element)) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
    }
    for (const element of document.querySelectorAll("canvas, svg, img")) {
      const isDecoration = element.closest("[aria-hidden=true]");
      if (!isDecoration && !element.getAttribute("aria-label")) found.push(`unnamed ${element.id}`);
    }
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    if (new Set(ids).size !== ids.length) found.push("an id stands twice");
    if (document.querySelector("[tabindex]:not([tabindex='0'])")) found.push("a tabindex of its own");
    if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
    if (!document.documentElement.lang || !document.title) found.push("no language or title");
    return found;
  });

async function main() {
  mkdirSync(directory, { recursive: true });
  const env = { ...process.env, HOME: directory, TMPDIR: directory, XDG_CONFIG_HOME: directory, XDG_CACHE_HOME: directory };
  browser = await chromium.launch({ executablePath: EXECUTABLE, args: FLAGS, env });
  const alice = await visit("Alice");
  const bob = await visit("Bob");

  await check("two pages meet", async () => {
    await hasMembers(alice, ["Alice", "Bob"]);
    await hasMembers(bob, ["Alice", "Bob"]);
    await sees(alice, "Bob came in.");
    await sees(bob, "One other is here.");
    assert.strictEqual(await alice.textContent("#people-count"), "2");
  });

  await check("messages go both ways", async () => {
    await say(alice, "from Alice");
    await sees(bob, "from Alice");
    await say(bob, "from Bob");
    await sees(alice, "from Bob");
    // Our own is delivered once it has its place in the order.
    await until(alice, () => document.querySelector(".line.is-own:not(.is-pending) .meta")?.textContent === "#1");
    await says(bob, ".line.is-own .meta", "#2");
  });

  await check("markup is text", async () => {
    const hostile = '<img src=x onerror="console.error(1)"><script>console.error(2)</script>';
    await say(alice, hostile);
    await sees(bob, hostile);
    assert.strictEqual(await bob.locator("#log img, #log script").count(), 0);
  });

  await check("typing is shown, and ends", async () => {
    await alice.locator("#text").pressSequentially("hm");
    await says(bob, "#typing", "Alice is typing");
    await bob.waitForSelector(".person.is-typing");
    await alice.fill("#text", "");
    await until(bob, () => document.getElementById("typing").textContent === "");
  });

  await check("pointers move on the other page", async () => {
    await point(alice, 0.25, 0.4);
    await pointsAt(bob, "Alice", 0.25, 0.4);
    await point(alice, 0.6, 0.7);
    await pointsAt(bob, "Alice", 0.6, 0.7);
    await point(bob, 0.3, 0.3);
    await pointsAt(alice, "Bob", 0.3, 0.3);
  });

  await check("who comes later sees where the others point", async () => {
    const carol = await visit("Carol");
    await pointsAt(carol, "Alice", 0.6, 0.7);
    await pointsAt(carol, "Bob", 0.3, 0.3);
    await carol.close();
    await sees(bob, "Carol has gone.");
    await hasMembers(bob, ["Alice", "Bob"]);
    await until(bob, () => ![...document.querySelectorAll(".pointer")].some((one) => one.textContent === "Carol"));
  });

  await check("latency is measured", async () => {
    await until(alice, () => Number(document.getElementById("latency-last").textContent) > 0);
    await until(alice, () => Number(document.getElementById("latency-median").textContent) > 0);
  });

  await check("noise is heard, and a rate limit is told of and kept to", async () => {
    await setNoise(alice, 20);
    await until(bob, () => Number(document.getElementById("rate").textContent) >= 10);
    await setNoise(alice, 150);
    await says(alice, "#noise-text", "RATE_LIMITED");
    // It goes on below the limit, and is not closed for it.
    await until(bob, () => Number(document.getElementById("rate").textContent) >= 30);
    assert.strictEqual(await alice.getAttribute("body", "data-state"), "online");
    await setNoise(alice, 0);
    await until(bob, () => document.getElementById("rate").textContent === "0");
  });

  await check("the keyboard does it all", async () => {
    const keys = await visit("Keys");
    await keys.keyboard.press("Tab");
    assert.strictEqual(await keys.evaluate(() => document.activeElement.id), "skip");
    await keys.keyboard.press("Enter");
    assert.strictEqual(await keys.evaluate(() => document.activeElement.id), "text");
    await keys.keyboard.type("written without a mouse");
    await keys.keyboard.press("Enter");
    await sees(bob, "written without a mouse");
    await keys.reload();
    await online(keys);
    await tabTo(keys, "pond");
    for (let n = 0; n < 5; n += 1) await keys.keyboard.press("ArrowRight");
    await pointsAt(bob, "Keys", 0.65, 0.55);
    await keys.keyboard.press("Enter");
    await tabTo(keys, "noise");
    for (let n = 0; n < 2; n += 1) await keys.keyboard.press("ArrowRight");
    await says(keys, "#noise-value", "10 a second");
    await tabTo(keys, "slow");
    await keys.keyboard.press("Space");
    await says(bob, "#people", "slow-Keys");
    await keys.keyboard.press("Space");
    await phase(keys, "off");
    await hasMembers(bob, ["Alice", "Bob", "Keys"]);
    await tabTo(keys, "plug");
    await keys.keyboard.press("Enter");
    await keys.waitForSelector('body[data-state="waiting"]');
    await keys.context().close();
  });

  await check("a slow client is evicted with 4008, and comes back", async () => {
    await alice.click("#slow");
    await says(bob, "#people", "slow-Alice");
    await phase(alice, "asleep");
    await until(alice, () => document.getElementById("slow-bar").value > 1);
    await sees(bob, "slow-Alice was evicted with 4008");
    // Who can't read what is left within a second is reset, and does not see the code.
    await until(alice, () => /Closed with (4008 slow client|1006 and a reset)/.test(document.getElementById("slow-text").textContent));
    await phase(alice, "back");
    await hasMembers(bob, ["Alice", "Bob", "slow-Alice"]);
    // Nobody else was closed for it.
    for (const page of [alice, bob]) assert.strictEqual(await page.getAttribute("body", "data-state"), "online");
    await alice.click("#slow");
    await hasMembers(bob, ["Alice", "Bob"]);
  });

  await check("the plug: offline, and back by itself", async () => {
    await alice.click("#plug");
    await alice.waitForSelector('body[data-state="waiting"]');
    await sees(bob, "Alice has gone.");
    await says(alice, "#state-text", "offline, trying again in");
    await say(alice, "written while offline");
    await alice.waitForSelector(".line.is-pending");
    await say(bob, "missed by Alice");
    await online(alice);
    await sees(alice, "One message was missed");
    await sees(bob, "written while offline");
    await until(alice, () => !document.querySelector(".line.is-pending"));
    await says(alice, "#plug-text", "Back after");
    await hasMembers(bob, ["Alice", "Bob"]);
  });

  await check("names and rooms can be changed", async () => {
    await alice.fill("#name", "Anna ‮ <b>");
    await alice.press("#name", "Enter");
    await sees(alice, "You are Anna");
    await until(bob, () => document.getElementById("people").textContent.includes("Anna"));
    await alice.fill("#room", "the deck");
    await alice.press("#room", "Enter");
    await says(alice, "#room-title", "the deck");
    await hasMembers(bob, ["Bob"]);
    assert.ok(alice.url().endsWith("#the%20deck"));
    await alice.evaluate(() => (location.hash = "#lobby"));
    await until(bob, () => document.querySelectorAll("#people li").length === 2);
    assert.strictEqual(await alice.evaluate(() => localStorage.getItem("tidegate.name").slice(0, 4)), "Anna");
  });

  await check("everything has a name", async () => {
    assert.deepStrictEqual(await unlabelled(alice), []);
  });

  for (const colorScheme of ["dark", "light"]) {
    await check(`text can be read on ${colorScheme}`, async () => {
      await bob.emulateMedia({ colorScheme });
      const { found, looked } = await faint(bob);
      assert.deepStrictEqual(found, []);
      assert.ok(looked > 40, `only ${looked} pieces of text`);
    });
  }

  await check("long names and messages fit a phone", async () => {
    const phone = await visit("W".repeat(32), { viewport: { width: 360, height: 780 }, isMobile: true, hasTouch: true });
    await say(phone, "W".repeat(600));
    await sees(bob, "W".repeat(600));
    await phone.waitForSelector(".line.is-own:not(.is-pending)");
    for (const page of [phone, bob]) {
      const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(inner <= outer, `${inner} px in ${outer}`);
    }
    assert.strictEqual(await phone.evaluate(() => innerWidth), 360);
    await phone.touchscreen.tap(180, 200);
    await phone.context().close();
  });

  await check("who wants no motion gets none", async () => {
    await bob.emulateMedia({ reducedMotion: "reduce" });
    const moving = await bob.evaluate(() =>
      [...document.querySelectorAll("*")].filter((one) => getComputedStyle(one).transitionProperty !== "none" && parseFloat(getComputedStyle(one).transitionDuration) > 0).length);
    assert.strictEqual(moving, 0);
  });

  await check("after a restart everyone is back", async () => {
    mayBeRefused = true;
    const answers = readline.createInterface({ input: process.stdin });
    const answered = new Promise((resolve) => answers.once("line", resolve));
    console.log("restart");
    await sees(alice, "The gateway restarts");
    await answered;
    answers.close();
    for (const page of [alice, bob]) {
      await online(page);
      await until(page, () => document.querySelectorAll("#people li").length === 2);
      await sees(page, "Back");
    }
    await say(bob, "still here");
    await sees(alice, "still here");
  });
}

main()
  .then(() => console.log("done"), (error) => {
    console.error(error, faults);
    process.exitCode = 1;
  })
  .finally(() => browser?.close());
