"""The server's side of SASL for the scripted mongos: SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN (as LDAP is spoken).

    Login(users, "SCRAM-SHA-256").step(client's bytes) -> (server's bytes, done)

Raises Refused with the wrong password, an unknown user or nonsense. Spec: RFC 5802, RFC 7677; MongoDB's SCRAM-SHA-1 hashes
"user:mongo:password" with MD5 first.
"""
import base64
import functools
import hashlib
import hmac
import os

ROUNDS = 4096
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN")


class Refused(Exception):
    pass


@functools.lru_cache(maxsize=1000)
def _salted(mechanism, user, password, salt, rounds):
    if mechanism == "SCRAM-SHA-1":
        password = hashlib.md5(("%s:mongo:%s" % (user, password)).encode()).hexdigest()
    return hashlib.pbkdf2_hmac(mechanism[6:].replace("-", "").lower(), password.encode(), salt, rounds)


def _salt(mechanism, user, pinch):
    salt = hashlib.sha256(("%s of %s%s" % (mechanism, user, pinch)).encode()).digest()
    return salt[:16 if mechanism == "SCRAM-SHA-1" else 28]


def know(mechanism, user, password, rounds, pinch=""):
    """Salts a password now, so that no front stops for it when somebody logs in."""
    _salted(mechanism, user, password, _salt(mechanism, user, pinch), rounds)


class Login:
    """One conversation. `user` is the name that is asked for; it is logged in once step() has said done. Another pinch of salt is
    another salt."""

    def __init__(self, users, mechanism, known=MECHANISMS, rounds=ROUNDS, pinch=""):
        if mechanism not in known:
            raise Refused("mechanism %s is not known" % mechanism)
        self.users = users
        self.rounds = rounds
        self.pinch = pinch
        self.mechanism = mechanism
        self.user = None
        self.proven = False
        self._first = None

    def _hash(self, data):
        return hashlib.new(self.mechanism[6:].replace("-", "").lower(), data).digest()

    def _hmac(self, key, data):
        return hmac.new(key, data, self.mechanism[6:].replace("-", "").lower()).digest()

    def step(self, payload):
        try:
            if self.proven:  # the empty exchange at the end, for drivers that do not skip it
                return b"", True
            if self.mechanism == "PLAIN":
                return self._plain(payload)
            return self._begin(payload) if self._first is None else (self._prove(payload), False)
        except (ValueError, KeyError, IndexError, UnicodeDecodeError) as e:
            raise Refused("not %s: %s" % (self.mechanism, e)) from None

    def _plain(self, payload):
        _, user, password = payload.decode().split("\0")
        self.user = user
        if self.users.get(user) != password:
            raise Refused("wrong name or password")
        self.proven = True
        return b"", True

    def _begin(self, payload):
        text = payload.decode()
        bare = text.split(",", 2)[2]
        fields = dict(f.split("=", 1) for f in bare.split(","))
        self.user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        if self.user not in self.users:
            raise Refused("wrong name or password")
        salt = _salt(self.mechanism, self.user, self.pinch)
        self._nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        self._salt = salt
        answer = "r=%s,s=%s,i=%d" % (self._nonce, base64.b64encode(salt).decode(), self.rounds)
        self._first = bare + "," + answer
        return answer.encode(), False

    def _prove(self, payload):
        text = payload.decode()
        unproven, proof = text.rsplit(",p=", 1)
        fields = dict(f.split("=", 1) for f in unproven.split(","))
        if fields["r"] != self._nonce:
            raise Refused("another conversation's nonce")
        salted = _salted(self.mechanism, self.user, self.users[self.user], self._salt, self.rounds)
        client_key = self._hmac(salted, b"Client Key")
        auth = (self._first + "," + unproven).encode()
        signature = self._hmac(self._hash(client_key), auth)
        if bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature)) != client_key:
            raise Refused("wrong name or password")
        self.proven = True
        return b"v=" + base64.b64encode(self._hmac(self._hmac(salted, b"Server Key"), auth))
