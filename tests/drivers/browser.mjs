// The web demo in a browser, as its users would: what it is given comes on stdin, what it saw goes to stdout.
import { readFileSync } from "node:fs";
import puppeteer from "puppeteer-core";

const { browser: executablePath, url, passwords, picture } = JSON.parse(readFileSync(0, "utf8"));
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
const seen = { users: {}, escapes: {} };

async function signIn(page, user, password) {
  await page.goto(`${url}/login`);
  await page.type("[name=user]", user);
  await page.type("[name=password]", password);
  await Promise.all([page.waitForNavigation(), page.click("form button")]);
}
const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());

for (const user of Object.keys(passwords).filter((name) => name !== "admin")) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({ width: 1150, height: 900 });
  await signIn(page, user, passwords[user]);
  seen.users[user] = {
    user: await text(page, "#user"), role: await text(page, "#role"), count: await text(page, "#count"),
    bars: await page.$$eval("#chart rect", (all) => all.length),
    rows: await page.$$eval("#rows tr", (all) => all.length - 1), header: await text(page, "#rows tr"),
  };
  if (user === "alice") {
    for (const value of await page.$$eval("button[name=try]", (all) => all.map((one) => one.value))) {
      await Promise.all([page.waitForNavigation(), page.click(`button[name=try][value="${value}"]`)]);
      seen.escapes[value] = (await page.$("#error")) ? await text(page, "#error b") : (await text(page, "#answer"));
      if ((await text(page, "#role")) !== "alice") throw new Error(`${value}: ${await text(page, "#role")}`);
      if (value === "RESET ROLE" && picture) await page.screenshot({ path: picture });
    }
    await page.$eval("textarea", (box) => { box.value = "SELECT '<img src=x onerror=alert(1)>' AS html"; });
    await Promise.all([page.waitForNavigation(), page.click("#run")]);
    seen.images = await page.$$eval("img", (all) => all.length);
  }
  await context.close();
}
const admin = await (await browser.createBrowserContext()).newPage();
await signIn(admin, "admin", "wrong");
seen.refused = await text(admin, ".error");
await signIn(admin, "admin", passwords.admin);
seen.trail = await text(admin, "#trail");
seen.live = await text(admin, "#live");
seen.views = await admin.$$eval("#views > div", (all) => Object.fromEntries(all.map((one) => [one.querySelector("b").textContent, one.textContent])));
await browser.close();
console.log(JSON.stringify(seen));
