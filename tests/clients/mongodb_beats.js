// The node driver's monitor for a while: four answers of the server that came without being asked for, and what it made of them.
const { MongoClient } = require('mongodb');

const client = new MongoClient(process.argv[2] + 'heartbeatFrequencyMS=500');
const seen = { beats: 0, failed: [], cleared: 0 };
client.on('serverHeartbeatSucceeded', (e) => { seen.beats += e.awaited ? 1 : 0; });
client.on('serverHeartbeatFailed', (e) => seen.failed.push(String(e.failure)));
client.on('connectionPoolCleared', () => { seen.cleared++; });

(async () => {
  await client.db('puerta').command({ find: 'things' });
  while (seen.beats < 4 && seen.failed.length === 0) await new Promise((done) => setTimeout(done, 50));
  await client.close();
  console.log(JSON.stringify(seen));
})();
