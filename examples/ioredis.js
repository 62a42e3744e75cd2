// Puerta from Node.js with ioredis (npm install ioredis): node ioredis.js [HOST [PORT]]
const Redis = require("ioredis");

const [host = "127.0.0.1", port = 6379] = process.argv.slice(2);

async function main() {
  // As with one plain Redis; add password: "..." if Puerta has one.
  const r = new Redis({ host, port: Number(port) });

  // Keys of all nodes of the cluster, in one request.
  await r.mset({ "example:greeting": "Hello", "example:name": "cluster" });
  console.log((await r.mget("example:greeting", "example:name")).join(" "));

  // Many requests in one go.
  const pipe = r.pipeline();
  for (let i = 0; i < 5; i++) pipe.incrby(`example:${i}`, i);
  console.log((await pipe.exec()).map(([error, answer]) => error || answer));

  const keys = (await r.keys("example:*")).sort();
  console.log(keys, await r.del(keys));
  await r.quit();
}

main().catch((e) => { console.error(e.message); process.exit(1); });
