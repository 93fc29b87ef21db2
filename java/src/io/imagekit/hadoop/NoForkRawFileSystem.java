// SPDX-License-Identifier: Apache-2.0
package io.imagekit.hadoop;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.attribute.PosixFileAttributes;
import java.nio.file.attribute.PosixFilePermissions;

import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * Hadoop's local file system, without checksum files, that never starts a program.
 *
 * <p>Without its native library Hadoop runs {@code chmod}, {@code chown}, {@code ls} and {@code
 * readlink}; here Java asks the kernel itself. Bits beyond the nine of user, group and others are
 * dropped, and symbolic links are followed.
 */
class NoForkRawFileSystem extends RawLocalFileSystem {
    @Override
    public void setPermission(Path path, FsPermission permission) throws IOException {
        String text =
                permission.getUserAction().SYMBOL
                        + permission.getGroupAction().SYMBOL
                        + permission.getOtherAction().SYMBOL;
        java.nio.file.Path file = toNio(path);
        try {
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString(text));
        } catch (IOException error) {
            throw asHadoop(path, error);
        }
    }

    /** Does nothing: there is one user. */
    @Override
    public void setOwner(Path path, String user, String group) {}

    @Override
    protected boolean mkOneDirWithMode(Path path, File folder, FsPermission permission)
            throws IOException {
        if (!folder.mkdir()) {
            return false;
        }
        if (permission != null) {
            setPermission(path, permission);
        }
        return true;
    }

    @Override
    public FileStatus getFileStatus(Path path) throws IOException {
        java.nio.file.Path file = toNio(path);
        PosixFileAttributes found;
        try {
            found = Files.readAttributes(file, PosixFileAttributes.class);
        } catch (IOException error) {
            throw asHadoop(path, error);
        }
        return new FileStatus(
                found.size(),
                found.isDirectory(),
                1,
                getDefaultBlockSize(path),
                found.lastModifiedTime().toMillis(),
                found.lastAccessTime().toMillis(),
                FsPermission.valueOf("-" + PosixFilePermissions.toString(found.permissions())),
                found.owner().getName(),
                found.group().getName(),
                path.makeQualified(getUri(), getWorkingDirectory()));
    }

    @Override
    public FileStatus getFileLinkStatus(Path path) throws IOException {
        return getFileStatus(path);
    }

    /** The parent's answer about a single file would run {@code ls} for its permissions. */
    @Override
    public FileStatus[] listStatus(Path path) throws IOException {
        FileStatus status = getFileStatus(path);
        return status.isDirectory() ? super.listStatus(path) : new FileStatus[] {status};
    }

    private java.nio.file.Path toNio(Path path) throws IOException {
        try {
            return pathToFile(path).toPath();
        } catch (InvalidPathException error) {
            throw new IOException(path + ": not a name in this locale; use LANG=C.UTF-8", error);
        }
    }

    /** What Java does not see is not found for Hadoop, whatever the kernel says of it. */
    private IOException asHadoop(Path path, IOException error) {
        if (pathToFile(path).exists()) {
            return error;
        }
        IOException missing = new FileNotFoundException("File " + path + " does not exist");
        missing.initCause(error);
        return missing;
    }
}
