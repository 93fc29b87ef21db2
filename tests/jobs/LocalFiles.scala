// What Hadoop's local file system answers, through FileSystem and FileContext, one line each.
// arguments: FOLDER, empty; then KEY=VALUE of Hadoop's configuration. Needs no Spark session.
package io.imagekit.jobs

import java.io.IOException
import java.nio.file.{Files, Paths}
import java.util.EnumSet

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{CreateFlag, FileContext, FileStatus, FileSystem, Options, Path}
import org.apache.hadoop.fs.permission.FsPermission

object LocalFiles {
  private def show(status: FileStatus): String =
    Seq(status.getPath, status.getLen, status.isDirectory, status.isSymlink, status.getReplication,
      status.getBlockSize, status.getPermission, status.getOwner, status.getGroup).mkString(" ")

  private def say(what: String)(action: => Any): Unit =
    println(what + ": " + (try action catch { case NonFatal(error) => error.getClass.getName }))

  private def write(fs: FileSystem, path: Path, permission: FsPermission): Unit = {
    val out = fs.create(path, permission, true, 4096, 1.toShort, 1L << 20, null)
    out.write("hello".getBytes)
    out.close()
  }

  def main(args: Array[String]): Unit = {
    val conf = new Configuration()
    args.drop(1).map(_.split("=", 2)).foreach(pair => conf.set(pair(0), pair(1)))
    val root = new Path(Paths.get(args(0)).toUri)
    val fs = FileSystem.get(root.toUri, conf)
    val file = new Path(root, "a/b/file")

    say("mkdirs")(fs.mkdirs(file.getParent, new FsPermission("750")))
    say("mkdirs again")(fs.mkdirs(file.getParent, new FsPermission("700")))
    say("folder")(show(fs.getFileStatus(file.getParent)))
    say("outer folder")(show(fs.getFileStatus(file.getParent.getParent)))
    write(fs, file, new FsPermission("640"))
    say("file")(show(fs.getFileStatus(file)))
    say("times")(fs.setTimes(file, 1000000000000L, 1100000000000L))
    say("times")(Seq(fs.getFileStatus(file)).map(s => s"${s.getModificationTime} ${s.getAccessTime}"))
    for (mode <- Seq("000", "644", "777", "511")) {
      fs.setPermission(file, new FsPermission(mode))
      say(mode)(fs.getFileStatus(file).getPermission)
    }
    fs.setPermission(file, new FsPermission("644"))
    say("owner")(fs.setOwner(file, fs.getFileStatus(file).getOwner, null))
    say("list folder")(fs.listStatus(file.getParent).map(show).mkString("; "))
    say("list file")(fs.listStatus(file).map(show).mkString("; "))
    say("glob")(fs.globStatus(new Path(root, "a/*/f*")).map(show).mkString("; "))
    say("summary")(fs.getContentSummary(root).getLength)
    say("copy")(fs.copyFromLocalFile(false, true, file, new Path(root, "copy")))
    say("append") { val out = fs.append(new Path(root, "copy")); out.write(1); out.close() }
    say("rename")(fs.rename(new Path(root, "copy"), new Path(root, "renamed")))
    say("renamed")(show(fs.getFileStatus(new Path(root, "renamed"))))
    say("checksum file")(Files.exists(Paths.get(args(0), "a/b/.file.crc")))

    val missing = new Path(root, "missing")
    say("missing exists")(fs.exists(missing))
    say("missing status")(fs.getFileStatus(missing))
    say("missing list")(fs.listStatus(missing))
    say("missing permission")(
      try fs.setPermission(missing, new FsPermission("644")) catch { case _: IOException => "no" })
    say("below a file exists")(fs.exists(new Path(file, "below")))
    say("below a file status")(fs.getFileStatus(new Path(file, "below")))
    say("below a file mkdirs")(fs.mkdirs(new Path(file, "below")))
    say("over a file mkdirs")(fs.mkdirs(file))
    say("umlaut")(fs.exists(new Path(root, "\u00e4")))
    Files.createSymbolicLink(Paths.get(args(0), "link"), Paths.get(args(0), "a", "b", "file"))
    say("link")(show(fs.getFileStatus(new Path(root, "link"))))
    Files.createSymbolicLink(Paths.get(args(0), "dangling"), Paths.get(args(0), "nowhere"))
    say("dangling")(fs.exists(new Path(root, "dangling")))

    val context = FileContext.getFileContext(root.toUri, conf)
    val flags = EnumSet.of(CreateFlag.CREATE, CreateFlag.OVERWRITE)
    for (name <- Seq("one", "two", "with:colon")) say(s"create $name") {
      val out = context.create(new Path(root.toString + "/context/" + name), flags,
        Options.CreateOpts.createParent(), Options.CreateOpts.perms(new FsPermission("600")))
      out.write(name.getBytes)
      out.close()
    }
    val (one, two) = (new Path(root, "context/one"), new Path(root, "context/two"))
    say("context rename")(context.rename(one, two))
    say("context overwrite")(context.rename(one, two, Options.Rename.OVERWRITE))
    say("context status")(show(context.getFileStatus(two)))
    say("context link status")(show(context.getFileLinkStatus(two)))
    say("context exists")(context.util.exists(one))
    say("context list")(context.util.listStatus(two.getParent).map(show).sorted.mkString("; "))
    say("context delete")(context.delete(two.getParent, true))
    say("delete")(fs.delete(file.getParent.getParent, true))
    say("system")(fs.getClass.getName + " " + context.getDefaultFileSystem.getClass.getName)
  }
}
