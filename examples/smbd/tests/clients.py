"""Python's SMB clients against a server: clients.py LIBRARY PORT USER PASSWORD

The share "data" holds "file"; "secret" is the same directory, to be encrypted. Each client lists,
gets, puts, renames and deletes, makes a directory of many files, uses names that are not ASCII, and
is refused with a wrong password, under every dialect it knows. Pike is a suite of tests of the
protocol; what is run of it is about what this server has.
"""

import io
import os
import sys
import unittest
import uuid

HOST = "127.0.0.1"
NAME = "Grüße aus 東京.txt"
MANY = 100


def smbprotocol(port, user, password):
    import smbclient
    from smbprotocol.connection import Connection, Dialects
    from smbprotocol.exceptions import LogonFailure, SMBException
    from smbprotocol.open import (CreateDisposition, FileAttributes, FilePipePrinterAccessMask,
                                  ImpersonationLevel, Open, ShareAccess)
    from smbprotocol.session import Session
    from smbprotocol.tree import TreeConnect

    def read(tree):
        file = Open(tree, "file")
        file.create(ImpersonationLevel.Impersonation, FilePipePrinterAccessMask.GENERIC_READ,
                    FileAttributes.FILE_ATTRIBUTE_NORMAL, ShareAccess.FILE_SHARE_READ,
                    CreateDisposition.FILE_OPEN, 0)
        data = file.read(0, 65536)
        file.close()
        return data

    dialects = [Dialects.SMB_2_0_2, Dialects.SMB_2_1_0, Dialects.SMB_3_0_0, Dialects.SMB_3_0_2,
                Dialects.SMB_3_1_1]
    contents = set()
    for dialect in dialects:
        for encrypts in (False, True):
            if encrypts and dialect < Dialects.SMB_3_0_0:
                continue
            connection = Connection(uuid.uuid4(), HOST, port, require_signing=True)
            connection.connect(dialect)
            assert connection.dialect == dialect
            # It also confirms the negotiation (VALIDATE_NEGOTIATE_INFO) before 3.1.1.
            session = Session(connection, user, password, require_encryption=encrypts)
            session.connect()
            for share in ("data", "secret"):
                if share == "secret" and dialect < Dialects.SMB_3_0_0:
                    continue
                tree = TreeConnect(session, rf"\\{HOST}\{share}")
                tree.connect()
                contents.add(read(tree))
            connection.disconnect(True)
    assert len(contents) == 1, "contents differ"

    connection = Connection(uuid.uuid4(), HOST, port)
    connection.connect()
    try:
        Session(connection, user, "wrong").connect()
        raise AssertionError("a wrong password was accepted")
    except (LogonFailure, SMBException):
        pass
    connection.disconnect(True)

    options = {"username": user, "password": password, "port": port}
    root = rf"\\{HOST}\data"
    with smbclient.open_file(rf"{root}\file", mode="rb", **options) as file:
        data = file.read()
    with smbclient.open_file(rf"{root}\{NAME}", mode="wb", **options) as file:
        file.write(data)
    smbclient.rename(rf"{root}\{NAME}", rf"{root}\other", **options)
    with smbclient.open_file(rf"{root}\other", mode="rb", **options) as file:
        assert file.read() == data
    smbclient.remove(rf"{root}\other", **options)
    smbclient.mkdir(rf"{root}\many", **options)
    for n in range(MANY):
        with smbclient.open_file(rf"{root}\many\{n} {NAME}", mode="wb", **options):
            pass
    names = smbclient.listdir(rf"{root}\many", **options)
    assert sorted(names) == sorted(f"{n} {NAME}" for n in range(MANY)), names
    for name in names:
        smbclient.remove(rf"{root}\many\{name}", **options)
    smbclient.rmdir(rf"{root}\many", **options)


def exercise(client):
    """What the two other libraries do alike."""
    data = client.get("file")
    client.put(NAME, data)
    client.rename(NAME, "other")
    assert client.get("other") == data
    client.delete("other")
    client.mkdir("many")
    for n in range(MANY):
        client.put(f"many/{n} {NAME}", b"")
    names = [name for name in client.list("many") if name not in (".", "..")]
    assert sorted(names) == sorted(f"{n} {NAME}" for n in range(MANY)), names
    for name in names:
        client.delete(f"many/{name}")
    client.rmdir("many")
    assert "data" in client.shares()


def impacket(port, user, password):
    from impacket.smb3structs import (SMB2_DIALECT_002, SMB2_DIALECT_21, SMB2_DIALECT_30,
                                      SMB2_DIALECT_311)
    from impacket.smbconnection import SessionError, SMBConnection

    class Client:
        def __init__(self, connection):
            self.connection = connection

        def get(self, name):
            out = io.BytesIO()
            self.connection.getFile("data", name, out.write)
            return out.getvalue()

        def put(self, name, data):
            self.connection.putFile("data", name, io.BytesIO(data).read)

        def rename(self, old, new):
            self.connection.rename("data", old, new)

        def delete(self, name):
            self.connection.deleteFile("data", name)

        def mkdir(self, name):
            self.connection.createDirectory("data", name)

        def rmdir(self, name):
            self.connection.deleteDirectory("data", name)

        def list(self, name):
            return [e.get_longname() for e in self.connection.listPath("data", name + "/*")]

        def shares(self):
            return [share["shi1_netname"].rstrip("\0") for share in self.connection.listShares()]

    for dialect in (SMB2_DIALECT_002, SMB2_DIALECT_21, SMB2_DIALECT_30, SMB2_DIALECT_311):
        connection = SMBConnection(HOST, HOST, sess_port=port, preferredDialect=dialect)
        assert connection.getDialect() == dialect
        connection.login(user, password)
        assert not connection.isGuestSession()
        exercise(Client(connection))
        connection.logoff()
    try:
        SMBConnection(HOST, HOST, sess_port=port).login(user, "wrong")
        raise AssertionError("a wrong password was accepted")
    except SessionError:
        pass


def pysmb(port, user, password):
    from smb.SMBConnection import SMBConnection

    class Client:
        def __init__(self, connection):
            self.connection = connection

        def get(self, name):
            out = io.BytesIO()
            self.connection.retrieveFile("data", name, out)
            return out.getvalue()

        def put(self, name, data):
            self.connection.storeFile("data", name, io.BytesIO(data))

        def rename(self, old, new):
            self.connection.rename("data", old, new)

        def delete(self, name):
            self.connection.deleteFiles("data", name)

        def mkdir(self, name):
            self.connection.createDirectory("data", name)

        def rmdir(self, name):
            self.connection.deleteDirectory("data", name)

        def list(self, name):
            return [entry.filename for entry in self.connection.listPath("data", name)]

        def shares(self):
            return [share.name for share in self.connection.listShares()]

    def connect(password, signs):
        connection = SMBConnection(user, password, "me", HOST, use_ntlm_v2=True,
                                   sign_options=signs, is_direct_tcp=True)
        return connection, connection.connect(HOST, port)

    for signs in (SMBConnection.SIGN_NEVER, SMBConnection.SIGN_WHEN_SUPPORTED,
                  SMBConnection.SIGN_WHEN_REQUIRED):
        connection, accepted = connect(password, signs)
        assert accepted
        exercise(Client(connection))
        connection.close()
    connection, accepted = connect("wrong", SMBConnection.SIGN_WHEN_SUPPORTED)
    assert not accepted, "a wrong password was accepted"


def pike(port, user, password):
    import smbclient

    os.environ.update(PIKE_SERVER=HOST, PIKE_PORT=str(port), PIKE_SHARE="data",
                      PIKE_CREDS=f"WORKGROUP\\{user}%{password}")
    # Left out are leases, durable handles, multichannel and reparse points, and modules of which
    # some tests count on one of these, or on a client that notices the end of a connection.
    modules = ["acl", "changenotify", "compound", "copychunk", "echo", "invalid_session", "lock",
               "oplock", "query", "querydirectory", "session", "set", "tree"]
    suite = unittest.defaultTestLoader.loadTestsFromNames(f"pike.test.{name}" for name in modules)
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    assert result.wasSuccessful()
    assert result.testsRun - len(result.skipped) > 90, result.testsRun
    # The suite leaves files behind.
    options = {"username": user, "password": password, "port": port}
    root = rf"\\{HOST}\data"
    for entry in list(smbclient.scandir(root, **options)):
        if entry.is_dir():
            smbclient.rmdir(entry.path, **options)
        elif entry.name != "file":
            smbclient.remove(entry.path, **options)


if __name__ == "__main__":
    library, port, user, password = sys.argv[1:]
    {"smbprotocol": smbprotocol, "impacket": impacket, "pysmb": pysmb, "pike": pike}[library](
        int(port), user, password)
